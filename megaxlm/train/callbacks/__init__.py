"""One concern each: metrics, progress, checkpoints, evaluation. The base is in `base`."""
