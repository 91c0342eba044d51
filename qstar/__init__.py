"""qstar: language models that teach themselves to think, in JAX."""

__version__ = "0.1.0"
