"""tunesmith against its peers, side by side: same tokens, same initial adapter, each in its own environment."""
