"""One file is one diagnosis."""
