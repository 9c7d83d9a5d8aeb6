"""Tensor functions that are faster or smaller than the obvious code; each is tested against its obvious twin."""
