"""Classes of DeepSeek-V3 and Kimi-K2, by the names that rule files match."""
from ktransformers.models.historic import publish

publish(__name__, "deepseek_v3", "DeepseekV3", {"MoEGate": "TopkRouter"})
