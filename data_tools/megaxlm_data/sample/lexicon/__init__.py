"""Hand-written inflected forms, one module per language, in the order of the concepts."""
