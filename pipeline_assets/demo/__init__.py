"""The demo: a shop whose real transactions are replayed into a landing folder."""
