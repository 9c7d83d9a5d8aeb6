"""What learns in a suite, as it begins: a peer writes it once, everyone loads it. One file per engine, methods by name."""
