"""Whole models on GPUs, without one: the golden models (test_goldens.py) with the stand-in of the GPU plug-in that has
all kernels as loops (src/backend/gpu/test_fixtures). It has two GPUs, over which the planner divides the layers, and
rules place parts. On a GPU tools/gpu_models.py runs the same models with the real kernels."""
import json
import pathlib

import numpy as np
import pytest

from gpu_models import BOUND, E4M3_BOUND, EXPERTS_ON_CPU
from support.hf_folder import write_hf_folder
from support.kt import BUILD, run_kt
from support.measure import mean_kl
from support.nan_model import write_nan_model
from test_goldens import ARCHITECTURES, Golden

ROOT = pathlib.Path(__file__).resolve().parents[1]
RULES = ROOT / "rules"

PLUGIN = ["--gpu-plugin", BUILD / "src" / "backend" / "gpu" / "libfake_gpu_whole.so"]
PLACEMENTS = {"planned": [], "one GPU": ["--gpus", "1"], "experts on the CPU": "off", "experts streamed": "on",
              "experts where they are faster": "auto"}


@pytest.fixture(scope="module")
def goldens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goldens")
    return {name: Golden(name, folder) for name in ARCHITECTURES}


def flags_of(placement, tmp_path):
    how = PLACEMENTS[placement]
    if isinstance(how, list):
        return how
    path = tmp_path / "rules.yaml"
    path.write_text(EXPERTS_ON_CPU)
    return ["--rules", path, "--device", "cuda:0", "--stream-experts", how]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_goldens_on_gpus(goldens, name, placement, tmp_path):
    golden = goldens[name]
    file_type = "Q4_K_M" if placement in ("planned", "experts streamed") else "BF16"
    model = golden.model(file_type)
    results = [golden.logits(model, *PLUGIN, *flags_of(placement, tmp_path), *walk)
               for walk in ([], ["--decode"], ["--chunk", "7"])]
    for logits in results:
        golden.check_rounded(file_type, logits)
        kls = sorted(mean_kl(r[None], got[None]) for r, got in zip(golden.arrays[file_type], logits))
        assert np.mean(kls[:-1]) <= BOUND  # a near tie of a router may turn in one token
    assert not np.array_equal(results[0], golden.logits(model, "--gpus", "0"))  # it was the GPUs


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "llama"])
def test_a_cache_in_e4m3_on_gpus(goldens, name, tmp_path):
    """On GPUs alone, and with some layers' attention on the CPU."""
    golden = goldens[name]
    model, reference = golden.model("BF16"), golden.arrays["BF16"]
    rules = tmp_path / "rules.yaml"
    rules.write_text("- match: {name: '^model\\.layers\\.1\\.'}\n"
                     "  replace: {class: default, kwargs: {generate_device: cpu, prefill_device: cpu}}\n")
    for where in ([], ["--rules", rules, "--device", "cuda:0"]):
        for walk in ([], ["--decode"], ["--chunk", "7"]):
            logits = golden.logits(model, *PLUGIN, "--kv", "f8_e4m3", *where, *walk)
            assert mean_kl(reference, logits) <= E4M3_BOUND
            assert not np.array_equal(golden.logits(model, *PLUGIN, *where, *walk), logits)


def test_what_gpus_cannot_do_is_said(goldens):
    golden = goldens["llama"]
    model = golden.model("BF16")
    for flags, status, message in ((["--act", "f32"], 5, "GPUs compute with bf16 activations"),
                                   (["--kv", "q8_0"], 5, "GPUs keep keys and values in bf16 or f8_e4m3"),
                                   (["--gpu-memory", "1MiB"], 2, "--gpu-memory: 1.0 MiB is too little")):
        done = run_kt("logits", "--model", model, "--tokens-file", golden.tokens, "--output", golden.folder / "x.npy",
                      *PLUGIN, *flags, check=False)
        assert done.returncode == status and message in done.stderr


@pytest.mark.parametrize("tensor, row, cpu, gpu", [
    ("token_embd.weight", 3, "model.embed_tokens (cpu)", "model.embed_tokens (cpu)"),
    ("blk.1.attn_output.weight", 5, "model.layers.1.self_attn (cpu)", "model.layers.1.self_attn (cuda:0)"),
    ("blk.0.ffn_gate_inp.weight", 2, "model.layers.0.mlp (cpu)", "model.layers.0.mlp (cuda:0)"),
    ("output.weight", 7, "lm_head (cpu)", "lm_head (cuda:0)")])
def test_a_nan_names_the_first_module_that_made_it(goldens, tmp_path, tensor, row, cpu, gpu):
    model = write_nan_model(tmp_path / "nan.gguf", goldens["qwen3_moe"].model("BF16"), tensor, row)
    tokens = tmp_path / "tokens.json"
    tokens.write_text("[1, 2, 3, 4]")
    for flags, where in ((["--gpus", "0"], cpu), ([*PLUGIN, "--gpus", "1"], gpu)):
        done = run_kt("logits", "--model", model, "--tokens-file", tokens, "--output", tmp_path / "x.npy", *flags,
                      check=False)
        assert done.returncode == 70
        assert "NaN or infinite logit" in done.stderr and done.stderr.endswith(f", first in {where}\n"), done.stderr


@pytest.mark.parametrize("name", ["deepseek_v2_lite", "deepseek_v3"])
def test_latent_attention_from_split_and_joint_weights(goldens, name):
    golden = goldens[name]
    split = golden.model("F32")  # attn_k_b and attn_v_b; the folder has kv_b_proj
    joint = write_hf_folder(golden.folder / f"{name}-hf", split, golden.config)
    np.testing.assert_array_equal(golden.logits(joint, *PLUGIN), golden.logits(split, *PLUGIN))


LATENT_RULE = r"""
- match: {{name: '^model\.layers\..*self_attn$'}}
  replace:
    class: ktransformers.operators.attention.KLatentAttention
    kwargs: {{generate_device: "cuda:0", absorb_for_prefill: {absorb}}}
"""


def test_expanded_prompts_equal_absorbed_ones(goldens, tmp_path):
    """In one chunk, in chunks of which the later ones see more than they bring, and in pieces that are not expanded."""
    config, model, tokens, rules, out = (tmp_path / n for n in ("c.json", "m.gguf", "t.json", "r.yaml", "l.npy"))
    config.write_text(json.dumps(goldens["deepseek_v3"].config | {"max_position_embeddings": 512}))
    run_kt("quantize", "--dummy", config, model, "--type", "BF16", "--seed", "1")
    tokens.write_text(json.dumps([int(t) for t in np.random.default_rng(1).integers(0, 200, 300)]))

    def logits(absorb, *flags):
        rules.write_text(LATENT_RULE.format(absorb=absorb))
        run_kt("logits", "--model", model, "--tokens-file", tokens, "--output", out, *PLUGIN, "--rules", rules,
               "--device", "cuda:0", *flags)
        return np.load(out)

    absorbed = logits("true")
    for flags in ([], ["--chunk", "96"], ["--chunk", "50"]):
        got = logits("false", *flags)
        assert mean_kl(absorbed, got) <= BOUND
        assert np.array_equal(absorbed, got) == (flags == ["--chunk", "50"])


def test_norms_of_latents_may_be_elsewhere(goldens, tmp_path):
    golden, rules = goldens["deepseek_v3"], tmp_path / "rules.yaml"
    rules.write_text(r"""
- match: {name: '^model\.layers\..*(q|kv)_a_layernorm$'}
  replace: {class: default, kwargs: {generate_device: cpu, prefill_device: cpu}}
- match: {name: '^model\.embed_tokens$'}
  replace: {class: default, kwargs: {generate_device: cpu, prefill_device: cpu}}
""")
    got = golden.logits(golden.model("BF16"), *PLUGIN, "--rules", rules, "--device", "cuda:0")
    golden.check_rounded("BF16", got)
    assert mean_kl(golden.arrays["BF16"], got) <= BOUND


@pytest.mark.parametrize("template, name", [
    ("DeepSeek-V2-Chat", "deepseek_v2"), ("DeepSeek-V2-Lite-Chat-multi-gpu", "deepseek_v2_lite"),
    ("DeepSeek-V3-Chat-multi-gpu", "deepseek_v3"), ("DeepSeek-V3-Chat-serve", "deepseek_v3"),
    ("Kimi-K2-Instruct", "kimi_k2"), ("Moonlight-16B-A3B", "moonlight")])
def test_templates_with_latent_attention_on_gpus(goldens, template, name):
    golden = goldens[name]
    model, rules = golden.model("BF16"), ["--rules", RULES / f"{template}.yaml"]
    emulated = golden.logits(model, *rules, "--emulate-gpus", "2", "--act", "f32", "--kv", "f32")
    # The rules' YaRN is not the goldens', so that there is no noise to compare with.
    assert mean_kl(emulated, golden.logits(model, *PLUGIN, *rules)) <= BOUND
