"""Checkpoints that do not know the layout: named flat fragments, a manifest and a marker."""
