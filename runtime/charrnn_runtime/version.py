"""The version of charrnn-runtime, which builds, commands and the server's description name."""

__version__ = "0.1.0"
