"""Classes of Qwen3-MoE, by the names that rule files match."""
from ktransformers.models.historic import publish

publish(__name__, "qwen3_moe", "Qwen3Moe", {})
