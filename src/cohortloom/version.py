"""The version, alone in its file so that the build can read it without importing the library."""

__all__ = ["__version__"]

__version__ = "0.1.0"
