"""Filters: each one class with one decision, keep or a reason to drop."""
