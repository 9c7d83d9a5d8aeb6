"""One file is one subcommand; files that begin with `_` are what they share."""

from tunesmith.commands._main import main

__all__ = ["main"]
