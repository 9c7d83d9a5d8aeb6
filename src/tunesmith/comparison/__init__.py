"""The same task by several methods, and what to conclude from it."""
