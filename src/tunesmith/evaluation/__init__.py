"""How good a model is, what it forgot, and how sure one can be."""
