"""Classes of Qwen2-MoE, by the names that rule files match."""
from ktransformers.models.historic import publish

publish(__name__, "qwen2_moe", "Qwen2Moe", {})
