"""Named settings, as data."""
