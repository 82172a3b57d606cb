"""megaxlm trains cross-lingual encoders from raw multilingual text with DeepSpeed."""

__version__ = "0.1.0"
