"""The small real models and data sets to begin with."""
