"""Bitext: aligned files and two-column TSV, to pairs of lines."""
