"""LLM inference on mixed hardware. Importing this needs no torch; the parts that do say so."""
from ktransformers._native import __version__
from ktransformers.engine import AsyncTextStream, Engine, Result, TextStream
from ktransformers.planning import Plan, plan

__all__ = ["AsyncTextStream", "Engine", "Plan", "Result", "TextStream", "__version__", "plan"]
