"""One file is one method. A new method is a new file here; nothing else changes."""
