"""The demo: a shop whose real transactions land as files. Nothing of the pipeline depends on it."""
