"""LLM inference on mixed hardware. Importing this needs no torch; the parts that do say so."""
import importlib
import pathlib

from ktransformers._native import __version__
from ktransformers.engine import AsyncTextStream, Engine, Result, TextStream
from ktransformers.planning import Plan, plan

RULES = pathlib.Path(__file__).parent / "rules"
"""The folder of rule templates, by model."""

__all__ = ["RULES", "AsyncTextStream", "Engine", "Plan", "Result", "TextStream", "__version__", "plan"]

_WITH_TORCH = {"KTMoEWrapper": "moe_wrapper", "generate_gpu_experts_masks": "moe_wrapper"}  # name -> module


def __getattr__(name: str):
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'ktransformers' has no attribute '{name}'")
    return getattr(importlib.import_module(f"ktransformers.{_WITH_TORCH[name]}"), name)
