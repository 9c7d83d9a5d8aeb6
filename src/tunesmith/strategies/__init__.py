"""One file is one way against forgetting."""
