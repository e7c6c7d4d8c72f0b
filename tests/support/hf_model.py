"""Transformers models with the dequantised weights of a GGUF file: what everything is compared with."""
import numpy as np
import torch
import transformers


def stack_experts(weights: dict) -> dict:
    """Per-expert matrices to the stacked tensors that Transformers 5 models hold."""
    out, experts = {}, {}
    for name, w in weights.items():
        name = name.replace("block_sparse_moe", "mlp")
        if ".experts." in name:
            head, tail = name.split(".experts.")
            index, part = tail.split(".")[:2]
            part = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}.get(part, part)
            experts.setdefault(head, {}).setdefault(part, {})[int(index)] = w
        else:
            out[name] = w
    for head, parts in experts.items():
        stack = {p: np.stack([m[i] for i in range(len(m))]) for p, m in parts.items()}
        out[f"{head}.experts.gate_up_proj"] = np.concatenate([stack["gate_proj"], stack["up_proj"]], axis=1)
        out[f"{head}.experts.down_proj"] = stack["down_proj"]
    return out


def hf_config(config: dict) -> transformers.PretrainedConfig:
    config = dict(config)
    if config["model_type"] == "kimi_k2":  # Transformers has it as remote code on the DeepSeek-V3 classes
        config["model_type"] = "deepseek_v3"
    return transformers.AutoConfig.for_model(**config)


def hf_model(config: dict, weights: dict):
    """The model in float32, with all weights set and none left over."""
    model = transformers.AutoModelForCausalLM.from_config(hf_config(config), dtype=torch.float32,
                                                          attn_implementation="eager")
    state = model.state_dict()
    loaded = {k: torch.from_numpy(np.array(v)) for k, v in stack_experts(weights).items()}
    if config["tie_word_embeddings"]:
        loaded["lm_head.weight"] = loaded["model.embed_tokens.weight"]
    missing = {k for k in state if "inv_freq" not in k} - set(loaded)
    left = set(loaded) - set(state)
    assert not missing and not left, f"missing {sorted(missing)[:5]}, left over {sorted(left)[:5]}"
    model.load_state_dict(loaded, strict=False)
    return model.eval()
