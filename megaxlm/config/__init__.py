"""Configs: pydantic schemas, YAML loading with dotted overrides, and the DeepSpeed JSON."""
