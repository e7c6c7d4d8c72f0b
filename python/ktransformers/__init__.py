"""LLM inference on mixed hardware. Importing this needs no torch; the parts that do say so."""
import pathlib

from ktransformers._native import __version__
from ktransformers.engine import AsyncTextStream, Engine, Result, TextStream
from ktransformers.planning import Plan, plan

RULES = pathlib.Path(__file__).parent / "rules"
"""The folder of rule templates, by model."""

__all__ = ["RULES", "AsyncTextStream", "Engine", "Plan", "Result", "TextStream", "__version__", "plan"]
