"""Every rule file of rules/ on small random models of its architecture, on emulated GPUs: with as many layers as the
real model it loads without a complaint and splits over GPUs without changing a bit; and its logits equal those of a
model whose weights numpy has rounded as the chosen operators say they do."""
import json
import pathlib
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from support.fp8 import write_fp8_folder
from support.hf_weights import read_gguf
from support.kt import run_kt

ROOT = pathlib.Path(__file__).resolve().parents[1]
RULES = ROOT / "rules"
CONFIGS = ROOT / "tests/data/golden_configs"
TEMPLATES = sorted(str(path.relative_to(RULES).with_suffix("")) for path in RULES.rglob("*.yaml"))
# first match wins: start of a template's name → small configuration, layers of the real model
MODELS = [
    ("DeepSeek-V2-Lite", "deepseek_v2_lite", 27), ("DeepSeek-V2", "deepseek_v2", 60), ("DeepSeek-V3", "deepseek_v3", 61),
    ("rocm/DeepSeek-V3", "deepseek_v3", 61), ("Kimi-K2", "kimi_k2", 61), ("Moonlight", "moonlight", 27),
    ("Qwen2-", "qwen2_moe", 28), ("Qwen3Moe", "qwen3_moe", 48), ("Mixtral", "mixtral", 32), ("Internlm2", "llama", 32),
    ("Llama", "llama", 32), ("Mistral", "mistral", 32), ("Qwen2", "qwen2", 28), ("Qwen3", "qwen3", 28),
]


def model_of(template: str):
    return next((name, layers) for start, name, layers in MODELS if template.startswith(start))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """(template, layers) → the model file (Q8_0), or folder for templates that want block-FP8 weights."""
    folder = tmp_path_factory.mktemp("templates")

    def make(template: str, layers: int = 0) -> pathlib.Path:
        name, real_layers = model_of(template)
        layers = layers or real_layers
        config = json.loads((CONFIGS / f"{name}.json").read_text()) | {"num_hidden_layers": layers}
        fp8 = "fp8" in template
        if fp8:
            config |= {"num_hidden_layers": min(layers, 31), "q_lora_rank": 128}  # 31: both GPUs have layers
        path = folder / f"{name}-{config['num_hidden_layers']}{'-fp8' if fp8 else ''}.gguf"
        if not path.exists():
            path.with_suffix(".json").write_text(json.dumps(config))
            run_kt("quantize", "--dummy", path.with_suffix(".json"), path, "--type", "F32" if fp8 else "Q8_0",
                   "--seed", "1")
            if fp8:
                write_fp8_folder(path.with_suffix(""), path, config)
        return path.with_suffix("") if fp8 else path
    return make


def logits(model, tmp_path, *flags):
    """[n_tokens, vocab] in float64, and what kt had to say."""
    (tmp_path / "ids.json").write_text("[1, 5, 9, 13, 2, 77, 120]")
    done = run_kt("logits", "--model", model, "--tokens-file", tmp_path / "ids.json", "--output",
                  tmp_path / "logits.npy", "--act", "f32", "--kv", "f32", *flags)
    return np.load(tmp_path / "logits.npy").astype(np.float64), done.stderr


def rounded(weight: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Symmetric rounding of every `group` weights of a row (-1: all) with one float16 scale."""
    out = np.empty_like(weight)
    group = weight.shape[1] if group < 0 else group
    for at in range(0, weight.shape[1], group):
        part = weight[:, at:at + group]
        largest = np.abs(part).max(axis=1, keepdims=True)
        scale = (largest / np.float32(127 if bits == 8 else 7.5)).astype(np.float16).astype(np.float32)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        low, high = (-127, 127) if bits == 8 else (-8, 7)
        out[:, at:at + group] = np.clip(np.rint(part * inverse), low, high) * scale
    return out


def bf16(weight: np.ndarray) -> np.ndarray:
    bits = weight.astype(np.float32).view(np.uint32)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000).astype(np.uint32).view(np.float32)


def write_expected(folder, model, template, operators):
    """The model with weights as the operators of the trace {module path: operator} make them."""
    config = json.loads(model.with_suffix(".json").read_text())
    text = (RULES / f"{template}.yaml").read_text()
    weights = read_gguf(str(model), config)
    if config.get("tie_word_embeddings"):
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        config["tie_word_embeddings"] = False
    n_changed = 0
    for name, weight in weights.items():
        path = name.removesuffix(".weight")
        operator = operators.get(path) or operators.get(re.sub(r"\.\d+\.\w+$", "", path), "")
        change = None
        if operator in ("KLinearMarlin", "VLinearMarlin", "KExpertsMarlin"):
            change = lambda w: rounded(w, 4, 64)
        elif operator == "KLinearQ8" or (operator == "KExpertsCPU" and "AMXInt8" in text):
            change = lambda w: rounded(w, 8, -1)
        elif operator == "KExpertsCPU" and "AMXBF16" in text:
            change = bf16
        if change is not None:
            weights[name] = change(weight)
            n_changed += 1
    assert n_changed > 0
    folder.mkdir()
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("template", TEMPLATES)
def test_logits_are_those_of_weights_rounded_as_the_operators_say(small, template, tmp_path):
    model = small(template, 2)
    trace = tmp_path / "trace.json"
    ruled, _ = logits(model, tmp_path, "--rules", RULES / f"{template}.yaml", "--emulate-gpus", "8", "--trace", trace)
    if "fp8" in template:  # KLinearFP8 and KLinearTorch change nothing
        expected, _ = logits(model, tmp_path)
    else:
        zones = [z for z in json.loads(trace.read_text())["traceEvents"] if z["ph"] == "X"]
        operators = {z["name"]: z["args"]["op"] for z in zones if z["cat"] in ("Linear", "Experts")}
        expected, _ = logits(write_expected(tmp_path / "expected", model, template, operators), tmp_path)
    assert np.abs(ruled - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_suits_the_whole_model(small, template, tmp_path):
    base = re.sub(r"-multi-gpu(-\d)?(?=$|-fp8)", "", template)
    base = re.sub(r"-serve(?=$|-amx)", "", base) if "V3" in base or "Moonlight" in base else base
    model = small(template)
    ruled, said = logits(model, tmp_path, "--rules", RULES / f"{template}.yaml", "--emulate-gpus", "8")
    if template != "Internlm2_5-7b-Chat-1m":  # whose attention says that it does less than the original's
        assert said == ""
    assert np.isfinite(ruled).all()
    if base != template:  # more GPUs, or the names that serving uses: the same operators
        single, _ = logits(model, tmp_path, "--rules", RULES / f"{base}.yaml", "--emulate-gpus", "1")
        assert (single == ruled).all()


def test_a_rule_set_that_mixes_operators_equals_no_rules(small, tmp_path):
    rules = tmp_path / "mixed.yaml"
    rules.write_text(r"""
- match: {name: '^model\.layers\.[0-9]\.', class: torch.nn.Linear}
  replace:
    class: ktransformers.operators.linear.KTransformersLinear
    kwargs: {generate_device: cpu, generate_op: KLinearTorch}
- match: {name: '^model\.layers\.1[0-9]\.', class: torch.nn.Linear}
  replace:
    class: ktransformers.operators.linear.KTransformersLinear
    kwargs: {generate_device: "cuda:0", generate_op: KLinearTorch}
- match: {name: '^model\.layers\.(1|3)[0-9]\.mlp\.experts$'}
  replace:
    class: ktransformers.operators.experts.KTransformersExperts
    kwargs: {generate_device: "cuda:1", generate_op: KExpertsTorch}
  recursive: False
- match: {name: '^model\.layers\.2[0-9]\.', class: ktransformers.models.modeling_deepseek_v3.DeepseekV3MoE}
  replace: {class: ktransformers.operators.experts.KDeepseekV3MoEV2, kwargs: {generate_device: "cuda:0"}}
- match: {name: 'self_attn$'}
  replace:
    class: ktransformers.operators.attention.KDeepseekV2Attention
    kwargs: {generate_device: "cuda:0", absorb_for_prefill: True}
""")
    model = small("DeepSeek-V3-Chat")
    plain, _ = logits(model, tmp_path)
    mixed, said = logits(model, tmp_path, "--rules", rules, "--emulate-gpus", "2")
    assert said.count("warning") == 2 and said.count("latent attention reads these weights itself") == 2
    assert np.abs(mixed - plain).max() <= 1e-4 * np.abs(plain).max()
