"""One concern each: metrics, progress, checkpoints, evaluation."""
