"""The stages of a build. Each is a function of its input and leaves a marker when it is done."""
