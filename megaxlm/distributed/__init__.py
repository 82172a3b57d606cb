"""Ranks and process groups, whichever launcher started them."""
