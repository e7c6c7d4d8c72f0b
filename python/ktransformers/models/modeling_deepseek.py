"""Classes of DeepSeek-V2, by the names that rule files match."""
from ktransformers.models.historic import publish

publish(__name__, "deepseek_v2", "DeepseekV2", {"MoEGate": "TopkRouter", "DeepseekV2MoE": "Moe"})
