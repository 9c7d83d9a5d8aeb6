"""The stories: fit, resume, evaluate, predict, merge - everything below put together, told step by step."""
