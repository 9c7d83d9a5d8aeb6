"""What will fit and how long it will take, without loading weights."""
