"""Perplexity, bits per byte and sentence retrieval."""
