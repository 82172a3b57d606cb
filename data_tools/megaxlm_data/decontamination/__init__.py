"""Training text that overlaps with evaluation sets: an index of their n-grams, and a search."""
