"""The version, for everybody below the package itself."""

__version__ = "0.2.0"
