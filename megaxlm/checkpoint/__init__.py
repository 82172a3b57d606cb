"""Checkpoints that do not know the layout: named tensors, manifest, atomic marker."""
