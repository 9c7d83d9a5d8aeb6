"""The stories that commands tell: fit, resume, evaluate, predict, merge."""
