"""What is kept on disk: checkpoints that survive a crash, adapters, merged models."""
