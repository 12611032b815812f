"""Fixtures that the examples in docstrings need, too."""

from real_server import binary, examples, real_address, real_project

__all__ = ["binary", "examples", "real_address", "real_project"]
