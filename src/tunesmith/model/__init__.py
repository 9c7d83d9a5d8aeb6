"""All knowledge of `transformers` models: loading, anatomy (read), surgery (write), packed streams, heads."""
