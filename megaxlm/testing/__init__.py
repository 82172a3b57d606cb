"""Parts that tests share: starting several ranks, tolerances, tiny models."""
