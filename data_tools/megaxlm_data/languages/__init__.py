"""Language codes, and which language a text is in."""
