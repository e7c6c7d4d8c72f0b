"""Reads a GGUF file with the `gguf` package into Hugging Face checkpoint names and layout.

Independent of the C++ reader: names come from the package's own tensor name map, values from its
dequantiser. Used by the golden generator and by tests that need the same weights as safetensors.
"""
import gguf
import numpy as np

HF_EXPERTS = {  # architecture -> (prefix of the block, names of gate, up, down)
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")),
}
GGUF_ARCH = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2", "kimi_k2": "deepseek2",
}


def unpermute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Undoes the row order that GGUF gives q and k of Llama models. weight: [n_heads * dim, n_in]."""
    rows = weight.shape[0]
    return (weight.reshape(n_heads, rows // n_heads // 2, 2, *weight.shape[1:])
            .swapaxes(1, 2).reshape(weight.shape))


def plain_names(config: dict) -> list[str]:
    """Checkpoint names of a model of this configuration, experts left out."""
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    mla = ["q_proj.weight", "q_a_proj.weight", "q_a_layernorm.weight", "q_b_proj.weight",
           "kv_a_proj_with_mqa.weight", "kv_a_layernorm.weight", "kv_b_proj.weight", "o_proj.weight"]
    gqa = [f"{p}_proj.{s}" for p in "qkvo" for s in ("weight", "bias")]
    gqa += ["q_norm.weight", "k_norm.weight"]
    block, _ = HF_EXPERTS.get(config["model_type"], ("mlp", None))
    mlp = ["mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight", f"{block}.gate.weight",
           "mlp.gate.e_score_correction_bias", "mlp.shared_expert_gate.weight"]
    shared = "shared_expert" if config["model_type"] == "qwen2_moe" else "shared_experts"
    mlp += [f"mlp.{shared}.{p}_proj.weight" for p in ("gate", "up", "down")]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        names += [layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight"]
        names += [layer + "self_attn." + n for n in (mla if "kv_lora_rank" in config else gqa)]
        names += [layer + n for n in mlp]
    return names


def read_gguf(path: str, config: dict) -> dict[str, np.ndarray]:
    """Every tensor of the file as float32 under its checkpoint name, one per expert."""
    reader = gguf.GGUFReader(path)
    arch = GGUF_ARCH[config["model_type"]]
    arch_id = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    name_map = gguf.get_tensor_name_map(arch_id, config["num_hidden_layers"])
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1].tolist())
              for t in reader.tensors}
    weights = {}
    for name in plain_names(config):
        target = name_map.get_name(name, try_suffixes=(".weight", ".bias"))
        if name.endswith("e_score_correction_bias"):
            target = f"blk.{name.split('.')[2]}.exp_probs_b.bias"
        if target in stored:
            weights[name] = stored.pop(target)
            if name.endswith("shared_expert_gate.weight"):  # GGUF has it as a vector
                weights[name] = weights[name].reshape(1, -1)
    block, parts = HF_EXPERTS.get(config["model_type"], ("mlp", ("gate_proj", "up_proj", "down_proj")))
    for name in [n for n in stored if n.endswith("_exps.weight")]:
        part = parts[("gate", "up", "down").index(name.split(".")[2].split("_")[1])]
        for e, matrix in enumerate(stored.pop(name)):
            weights[f"model.layers.{name.split('.')[1]}.{block}.experts.{e}.{part}.weight"] = matrix
    for i in range(config["num_hidden_layers"]):  # split latent projections, as newer files have them
        if f"blk.{i}.attn_k_b.weight" in stored:
            k_b = stored.pop(f"blk.{i}.attn_k_b.weight")  # [heads, kv_lora, nope]
            v_b = stored.pop(f"blk.{i}.attn_v_b.weight")  # [heads, v, kv_lora]
            joint = np.concatenate([k_b.swapaxes(1, 2), v_b], axis=1)
            weights[f"model.layers.{i}.self_attn.kv_b_proj.weight"] = joint.reshape(-1, joint.shape[-1])
    stored.pop("rope_freqs.weight", None)
    assert not stored, f"tensors without a checkpoint name: {sorted(stored)}"
    if arch == "llama":
        for name, w in weights.items():
            for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
                if f"self_attn.{part}." in name:
                    weights[name] = unpermute(w, config[heads])
    return weights
