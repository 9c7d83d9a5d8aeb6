"""From a file as people have it to tokens with labels."""
