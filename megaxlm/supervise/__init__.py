"""Keeps a run going: starts its launch command again whenever that ends too early."""
