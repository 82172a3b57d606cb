"""The training run: engine, loop, state and callbacks."""
