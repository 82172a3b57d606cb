"""Deduplication: which documents are copies of an earlier one."""
