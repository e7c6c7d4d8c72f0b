"""LLM inference on mixed hardware. Importing this needs no torch; the parts that do say so."""
from ktransformers._native import __version__

__all__ = ["__version__"]
