"""The version of charrnn-trainer, which builds, checkpoints and exported models name."""

__version__ = "0.1.0"
