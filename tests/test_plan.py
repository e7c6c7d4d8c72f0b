"""kt plan: the printed plans of docs/planning.md, the arithmetic behind them done again from the configurations,
refusals, rule files written and read back, and predicted against real peak memory."""
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import pytest

from support.kt import kt_path, run_kt

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "tests" / "data" / "configs"
GIB = 1 << 30
UNSUPPORTED, NO_MEMORY = 5, 7
BITS = {"Q4_0": 4.5, "Q8_0": 8.5, "F16": 16, "BF16": 16, "F32": 32}  # blocks of 32 with an F16 scale

BIG = {
    "DeepSeek-V3": ["--gpu", "24GiB@1000GB/s@80TFLOPS", "--ram", "512GiB@300GB/s", "--cpu-flops", "10TFLOPS"],
    "Kimi-K2-Instruct": ["--gpu", "24GiB@1000GB/s@80TFLOPS", "--gpu", "24GiB@1000GB/s@80TFLOPS",
                         "--ram", "1TiB@400GB/s", "--cpu-flops", "20TFLOPS"],
    "Qwen3-30B-A3B": ["--gpu", "8GiB@450GB/s@60TFLOPS", "--ram", "32GiB@80GB/s", "--cpu-flops", "2TFLOPS"],
}


def config_path(name: str) -> pathlib.Path:
    return CONFIGS / f"{name}.json"


def read_config(name: str) -> dict:
    return json.loads(config_path(name).read_text())


def plan(*args) -> dict:
    return json.loads(run_kt("plan", *args, "--json").stdout)


# The page ------------------------------------------------------------------------------------------------

def printed_plans() -> list:
    text = (ROOT / "docs" / "planning.md").read_text()
    pairs = re.findall(r"^```sh\n(kt plan [^`]*?)^```\n+```text\n(.*?)^```", text, re.M | re.S)
    assert len(pairs) >= 3, "docs/planning.md shows fewer than three plans"
    return [pytest.param(command, output, id=re.search(r"configs/([\w.-]+)\.json", command).group(1))
            for command, output in pairs]


@pytest.mark.parametrize("command, output", printed_plans())
def test_the_page_prints_what_the_program_says(command, output):
    words = shlex.split(command.replace("\\\n", " "))
    done = subprocess.run([kt_path(), *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == output


# Arithmetic ----------------------------------------------------------------------------------------------

def mla_attention(c: dict) -> int:
    heads, nope, rope = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
    d, lora, v = c["hidden_size"], c["kv_lora_rank"], c["v_head_dim"]
    q_rank = c.get("q_lora_rank")
    q = d * q_rank + q_rank * heads * (nope + rope) if q_rank else d * heads * (nope + rope)
    return q + d * (lora + rope) + lora * heads * (nope + v) + heads * v * d


def gqa_attention(c: dict) -> int:
    d, head = c["hidden_size"], c["head_dim"]
    return d * head * (2 * c["num_attention_heads"] + 2 * c["num_key_value_heads"])


def weights_by_class(c: dict) -> dict:
    """Weights of matrices that a file type quantises, counted from the configuration."""
    d, n = c["hidden_size"], c["num_hidden_layers"]
    deepseek = "kv_lora_rank" in c
    dense = c.get("first_k_dense_replace", 0)
    n_experts = c["n_routed_experts"] if deepseek else c["num_experts"]
    expert = 3 * d * c["moe_intermediate_size"]
    counts = {"attention": n * (mla_attention(c) if deepseek else gqa_attention(c)),
              "experts": (n - dense) * n_experts * expert,
              "embedding": c["vocab_size"] * d, "head": c["vocab_size"] * d}
    if deepseek:
        counts["shared experts"] = (n - dense) * c["n_shared_experts"] * expert
        counts["dense layers"] = dense * 3 * d * c["intermediate_size"]
    return counts


def by_class(result: dict, key: str) -> dict:
    sums: dict = {}
    for m in result["modules"]:
        sums[m["class"]] = sums.get(m["class"], 0) + m[key]
    return sums


@pytest.mark.parametrize("name", BIG)
@pytest.mark.parametrize("kind", ["Q8_0", "BF16"])
def test_bytes_are_parameters_times_bits(name, kind):
    """In these types every matrix has the type's bits, routers and norms apart."""
    c = read_config(name)
    result = plan(config_path(name), "--format", kind, "--ram", "3TiB@100GB/s")
    got = by_class(result, "file_bytes")
    for cls, count in weights_by_class(c).items():
        assert got[cls] == count * BITS[kind] / 8, cls
    norms = got["norms, routers"]
    assert result["file_bytes"] == sum(got.values()) and norms < 0.01 * result["file_bytes"]


@pytest.mark.parametrize("name", BIG)
def test_cache_is_tokens_times_bytes(name):
    c = read_config(name)
    layers = c["num_hidden_layers"]
    for kv, bits in (("f16", 16), ("f32", 32), ("q8_0", 8.5), ("f8_e4m3", 8)):
        per_token = layers * bits / 8 * (c["kv_lora_rank"] + c["qk_rope_head_dim"] if "kv_lora_rank" in c
                                         else 2 * c["num_key_value_heads"] * c["head_dim"])
        result = plan(config_path(name), "--kv", kv, "--ctx", "4096", "--ram", "3TiB@100GB/s")
        assert result["cache_bytes_per_token"] == per_token
        assert result["cache_bytes"] == per_token * 4096
        assert sum(d["cache"] for d in result["devices"]) == result["cache_bytes"]


def test_a_cache_in_e4m3_takes_half_on_gpus_too():
    """But for a mirror in bf16 of one layer, which is workspace."""
    machine = ["--gpu", "80GiB@3000GB/s", "--ram", "64GiB@100GB/s", "--ctx", "32768"]
    for name, values in (("Qwen3-30B-A3B", 2 * 4 * 128), ("DeepSeek-V2-Lite", 512 + 64)):
        wide, narrow = (plan(config_path(name), "--kv", kv, *machine)["devices"][1] for kv in ("bf16", "f8_e4m3"))
        assert wide["cache"] == 2 * narrow["cache"] > 0
        assert narrow["workspace"] - wide["workspace"] == 32768 * values * 2


def layer_of(module: dict) -> str:
    return module["path"].split(".")[2]


def layer_devices(result: dict) -> dict:
    return {layer_of(m): m["device"] for m in result["modules"] if m["path"].endswith("input_layernorm")}


def expert_bytes(module: dict, config: dict) -> int:
    """Of one expert on a GPU, as the file has it."""
    return -(-module["file_bytes"] // config.get("n_routed_experts", config.get("num_experts")))


@pytest.mark.parametrize("name", BIG)
def test_devices_add_up(name):
    result = plan(config_path(name), *BIG[name])
    layers = layer_devices(result)
    for device in result["devices"]:
        weights = {cls: 0 for cls in device["weights"]}
        for m in result["modules"]:
            if m["device"] == device["name"]:
                weights[m["class"]] += m["bytes"]
            if m["gpu_experts"] > 0 and layers[layer_of(m)] == device["name"]:
                weights["experts"] += m["gpu_experts"] * expert_bytes(m, read_config(name))
        assert weights == device["weights"]
        used = sum(weights.values()) + device["cache"] + device["workspace"] + device["margin"]
        assert used + device["free"] == device["capacity"], device["name"]
    assert {m["device"] for m in result["modules"]} == {d["name"] for d in result["devices"]}


@pytest.mark.parametrize("name", BIG)
@pytest.mark.parametrize("cache", ["auto", "off"])
def test_gpus_hold_what_every_token_needs_and_then_experts(name, cache):
    result = plan(config_path(name), *BIG[name], "--expert-cache", cache)
    experts = [m for m in result["modules"] if m["class"] == "experts"]
    on_gpu = [m for m in experts if m["operator"] == "KExpertsGPU"]
    counts = [m["gpu_experts"] for m in experts]
    if cache == "off":
        assert on_gpu and all(m["bytes"] == m["file_bytes"] for m in on_gpu)  # in the file's format
        assert not any(counts)
    else:  # as many of each layer
        assert not on_gpu and 0 < min(counts)
    for m in result["modules"]:
        if m["class"] not in ("experts", "embedding"):
            assert m["device"].startswith("cuda"), m["path"]
    layers = layer_devices(result)
    for device in result["devices"][1:]:
        here = [m for m in experts if m["device"] == "cpu" and layers[layer_of(m)] == device["name"]]
        if cache == "off":
            assert all(device["free"] < m["file_bytes"] for m in here)
            continue
        assert device["free"] < sum(expert_bytes(m, read_config(name)) for m in here)
        counts = [m["gpu_experts"] for m in here]
        assert max(counts) <= min(counts) + 1


def test_experts_that_main_memory_cannot_hold_go_to_gpus_a_layer_at_a_time():
    """GPUs add to a memory that is too small for all experts."""
    result = plan(config_path("Qwen3-30B-A3B"), "--gpu", "12GiB@450GB/s@60TFLOPS", "--ram", "12GiB@80GB/s")
    experts = [m for m in result["modules"] if m["class"] == "experts"]
    assert not any(m["gpu_experts"] for m in experts)
    assert {m["device"] for m in experts} == {"cpu", "cuda:0"}


def test_layers_are_split_in_order_over_unequal_gpus():
    result = plan(config_path("Kimi-K2-Instruct"), "--gpu", "48GiB@1000GB/s", "--gpu", "24GiB@1000GB/s",
                  "--ram", "1TiB@400GB/s")
    layers: dict = {}
    for m in result["modules"]:
        if m["class"] == "attention":
            layers.setdefault(m["device"], set()).add(int(m["path"].split(".")[2]))
    first, second = sorted(layers["cuda:0"]), sorted(layers["cuda:1"])
    assert first + second == list(range(read_config("Kimi-K2-Instruct")["num_hidden_layers"]))
    assert 1.5 < len(first) / len(second) < 2.7


def test_decode_speed_is_bytes_over_bandwidth():
    """With slow memory and endless compute, decode takes as long as reading the weights a token uses."""
    c = read_config("Qwen3-30B-A3B")
    result = plan(config_path("Qwen3-30B-A3B"), "--format", "Q8_0", "--ram", "64GiB@10GB/s", "--cpu-flops", "1e15")
    counts = weights_by_class(c)
    used = counts["attention"] + counts["head"] + counts["experts"] * c["num_experts_per_tok"] / c["num_experts"]
    routers = c["num_hidden_layers"] * c["num_experts"] * c["hidden_size"] * 4
    seconds = (used * BITS["Q8_0"] / 8 + routers) / (0.8 * 10e9)
    assert result["speed"]["decode"] == pytest.approx(1 / seconds, rel=0.02)
    assert result["speed"]["decode_limit"] == "memory bandwidth"


def test_prefill_speed_is_operations_over_rate():
    c = read_config("Qwen3-30B-A3B")
    result = plan(config_path("Qwen3-30B-A3B"), "--format", "Q8_0", "--ram", "64GiB@100TB/s", "--cpu-flops",
                  "1TFLOPS")
    counts = weights_by_class(c)
    per_token = counts["attention"] + counts["experts"] * c["num_experts_per_tok"] / c["num_experts"]
    routers = c["num_hidden_layers"] * c["num_experts"] * c["hidden_size"]
    bound = 0.8e12 / 2 / (per_token + routers)
    assert 0.75 * bound < result["speed"]["prefill"] <= bound
    assert result["speed"]["prefill_limit"] == "CPU compute"


@pytest.mark.parametrize("machine", [[], ["--gpu", "8GiB@450GB/s@60TFLOPS"]])
def test_a_dense_model_is_planned(machine):
    c = read_config("Llama-3.1-8B")
    result = plan(config_path("Llama-3.1-8B"), "--format", "BF16", "--ram", "64GiB@10GB/s", *machine)
    mlp = 3 * c["hidden_size"] * c["intermediate_size"] * c["num_hidden_layers"]
    assert by_class(result, "file_bytes")["dense layers"] == mlp * BITS["BF16"] / 8
    assert 0 < result["speed"]["load_seconds"] and 0 < result["speed"]["decode"] < 80e9 / result["file_bytes"]
    assert not any(m["gpu_experts"] for m in result["modules"])


# Context and refusals ------------------------------------------------------------------------------------

def test_the_largest_context_fits_and_one_page_more_does_not():
    machine = ["--ram", "19GiB@80GB/s"]
    path = config_path("Qwen3-30B-A3B")
    largest = plan(path, "--kv", "f32", *machine)["largest_context"]
    assert largest % 64 == 0 and largest < read_config("Qwen3-30B-A3B")["max_position_embeddings"]
    assert plan(path, "--kv", "f32", *machine, "--ctx", largest)["context"] == largest
    done = run_kt("plan", path, "--kv", "f32", *machine, "--ctx", largest + 64, check=False)
    assert done.returncode == NO_MEMORY and f"--ctx {largest} would fit" in done.stderr


@pytest.mark.parametrize("name, machine", [
    ("DeepSeek-V3", ["--ram", "256GiB@100GB/s"]),
    ("Kimi-K2-Instruct", ["--gpu", "24GiB@1000GB/s", "--ram", "512GiB@100GB/s"]),
    ("Qwen3-30B-A3B", ["--ram", "16GiB@50GB/s"]),
])
def test_what_cannot_fit_is_refused_at_once(name, machine):
    start = time.process_time() + sum(os.times()[2:4])
    done = run_kt("plan", config_path(name), "--format", "Q8_0", *machine, check=False)
    spent = time.process_time() + sum(os.times()[2:4]) - start
    assert done.returncode == NO_MEMORY
    assert re.search(r"needs [\d.]+ [GT]iB of memory, .*\(.* short on cpu\)", done.stderr), done.stderr
    assert spent < 2.0, f"{spent:.1f} s of processor time"
    best = re.search(r"(\w+) is the largest format that would fit", done.stderr).group(1)
    assert plan(config_path(name), "--format", best, *machine)["type"] == best


@pytest.mark.parametrize("args, words", [
    (["--gpu", "24GiB"], ["--gpu", "24GiB@1000GB/s"]),
    (["--gpu", "lots@fast"], ["--gpu", "'lots'"]),
    (["--ram", "12parsecs"], ["--ram", "12parsecs"]),
    (["--ram", "1GiB@2@3"], ["--ram"]),
    (["--pcie", "-1"], ["--pcie"]),
    (["--cpu-flops", "2TFLOPS"], ["--cpu-flops", "--ram"]),
    (["--ctx", "99999999"], ["--ctx", "40960"]),
    (["--format", "Q9"], ["'Q9'", "Q4_K_M"]),
])
def test_mistakes(args, words):
    done = run_kt("plan", config_path("Qwen3-30B-A3B"), *args, check=False)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("flags", [["--kv", "q8_0"], ["--act", "f32"]])
def test_what_gpus_cannot_do_is_refused(flags):
    args = ["plan", config_path("Qwen3-30B-A3B"), "--ram", "64GiB@80GB/s", *flags]
    done = run_kt(*args, "--gpu", "8GiB@450GB/s", check=False)
    assert done.returncode == UNSUPPORTED and done.stderr.startswith(f"kt: error: {flags[0]}: {flags[1]}: GPUs")
    run_kt(*args)


def test_prompts_are_predicted_with_experts_that_come_over_the_link():
    def prefill(*flags) -> tuple:
        speed = plan(config_path("Qwen3-30B-A3B"), *BIG["Qwen3-30B-A3B"], *flags)["speed"]
        return speed["prefill"], speed["prefill_limit"]
    (streamed, limit), (off, _) = prefill(), prefill("--stream-experts", "off")
    assert streamed > 1.1 * off and limit == "GPU link"
    assert prefill("--pcie", "1GB/s")[1] == "CPU compute"  # where the link is slower, none come
    assert prefill("--pcie", "1GB/s", "--stream-experts", "on")[0] < 0.5 * off


# Rule files ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", BIG)
def test_written_rules_give_the_same_plan(name, tmp_path):
    rules = tmp_path / "rules.yaml"
    planned = plan(config_path(name), *BIG[name], "--write-rules", rules)
    explained = plan(config_path(name), *BIG[name], "--rules", rules)
    assert explained["warnings"] == []
    # The largest context is not the same: the planner would move experts off the GPUs for it, rules stay.
    for key in ("devices", "context", "speed", "cache_bytes"):
        assert explained[key] == planned[key], key

    def without_reasons(modules):
        return [{k: v for k, v in m.items() if k != "reason"} for m in modules]
    assert without_reasons(explained["modules"]) == without_reasons(planned["modules"])
    assert all("line" in m["reason"] for m in explained["modules"] if m["device"] != "cpu")


def test_rules_without_gpus_change_nothing(tmp_path):
    rules = tmp_path / "rules.yaml"
    machine = ["--ram", "64GiB@80GB/s"]
    planned = plan(config_path("Qwen3-30B-A3B"), *machine, "--write-rules", rules)
    assert plan(config_path("Qwen3-30B-A3B"), *machine, "--rules", rules)["devices"] == planned["devices"]


def test_rules_for_gpus_that_are_not_here_say_how_to_plan_for_them(tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("- match: {name: '^lm_head$'}\n"
                     "  replace: {class: default, kwargs: {generate_device: 'cuda:1', prefill_device: 'cuda:1'}}\n")
    done = run_kt("plan", config_path("Qwen3-30B-A3B"), "--gpu", "24GiB@1000GB/s", "--rules", rules, check=False)
    assert done.returncode == 4 and "device 'cuda:1' does not exist" in done.stderr
    assert "--gpu 24GiB@1000GB/s, once for each, plans for GPUs that are not here" in done.stderr
    assert "--emulate-gpus" not in done.stderr


def test_a_rule_file_is_explained_line_by_line(tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text('- match:\n    name: "^model\\\\.layers\\\\.(0|1)\\\\.mlp\\\\.experts$"\n  replace:\n'
                     '    class: ktransformers.operators.experts.KExpertsMarlin\n'
                     '    kwargs:\n      generate_device: "cuda:0"\n      prefill_device: "cuda:0"\n')
    text = run_kt("plan", config_path("Qwen3-30B-A3B"), *BIG["Qwen3-30B-A3B"], "--rules", rules).stdout
    line = next(row for row in text.splitlines() if row.startswith("model.layers.{0-1}.mlp.experts"))
    assert "KExpertsMarlin" in line and "cuda:0" in line and "648.0 MiB" in line and "line 1" in line
    assert "model.layers.{2-5" in text


# Predicted against real ----------------------------------------------------------------------------------

def measured_peak(config: pathlib.Path, kind: str, prompt: int, *flags) -> int:
    """Peak resident bytes of `kt bench` with a prompt."""
    # In a process of its own: a child's peak starts with that of the process it was forked from.
    code = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=-3, stderr=-3); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    bench = [kt_path(), "bench", "--dummy", config, "--type", kind, "-c", prompt + 2, "-p", prompt, "-n", "0",
             "-r", "1", "--no-warmup", "-t", "2", "--gpus", "0", *flags]
    done = subprocess.run([sys.executable, "-c", code, *map(str, bench)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


def small_config(name: str, folder: pathlib.Path, **changes) -> pathlib.Path:
    path = folder / "config.json"
    path.write_text(json.dumps(read_config(name) | {"vocab_size": 8192, "bos_token_id": 1, "eos_token_id": 1}
                               | changes))
    return path


@pytest.mark.parametrize("name, kind, layers", [("Qwen3-30B-A3B", "Q4_K_M", 3), ("DeepSeek-V2-Lite", "Q8_0", 2),
                                                ("DeepSeek-V2-Lite", "Q4_0", 3)])
def test_peak_memory_is_as_planned(name, kind, layers, tmp_path):
    path = small_config(name, tmp_path, num_hidden_layers=layers)
    planned = plan(path, "--format", kind, "--ctx", "514", "-t", "2", "--gpus", "0")["peak_bytes"]
    assert planned == pytest.approx(measured_peak(path, kind, 512), rel=0.03)


LAYER_WISE = """
- match: {name: ^model$}
  replace:
    class: ktransformers.operators.models.KQwen2MoeModel
    kwargs: {per_layer_prefill_intput_threshold: THRESHOLD}
- match: {name: mlp.experts$}
  replace:
    class: ktransformers.operators.experts.KTransformersExperts
    kwargs: {generate_op: KExpertsCPU, prefill_op: PREFILL}
"""


def layer_wise_rules(folder: pathlib.Path, threshold: int, prefill: str) -> pathlib.Path:
    path = folder / f"{threshold}-{prefill}.yaml"
    path.write_text(LAYER_WISE.replace("THRESHOLD", str(threshold)).replace("PREFILL", prefill))
    return path


def test_layer_wise_prefill_is_counted(tmp_path):
    """The rows of a prompt that wait between layers, and the larger operator of one layer."""
    c = read_config("Qwen3-30B-A3B")
    args = [config_path("Qwen3-30B-A3B"), "--format", "Q4_0", "--ram", "64GiB@80GB/s", "--ctx", "8192"]

    def workspace(threshold: int, prefill: str) -> int:
        return plan(*args, "--rules", layer_wise_rules(tmp_path, threshold, prefill))["devices"][0]["workspace"]
    without = workspace(0, "KExpertsTorch")
    assert workspace(8192, "KExpertsTorch") == without, "no prompt is longer than the context"
    rows = 2 * 8192 * c["hidden_size"] * 4
    assert workspace(4096, "KExpertsCPU") - without == rows
    weights = c["num_experts"] * 3 * c["hidden_size"] * c["moe_intermediate_size"]
    growth = workspace(4096, "KExpertsTorch") - without - rows
    assert growth == pytest.approx(weights * (32 - BITS["Q4_0"]) / 8, rel=0.01)


def test_peak_memory_of_layer_wise_prefill_is_as_planned(tmp_path):
    path = small_config("Qwen3-30B-A3B", tmp_path, num_hidden_layers=3, num_experts=24)
    rules = layer_wise_rules(tmp_path, 64, "KExpertsTorch")
    planned = plan(path, "--format", "Q8_0", "--ctx", "1026", "-t", "2", "--gpus", "0", "--rules", rules)["peak_bytes"]
    assert planned == pytest.approx(measured_peak(path, "Q8_0", 1024, "--rules", rules), rel=0.03)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "x": 3}', "\0\xff"])
def test_a_broken_profile_is_measured_again(text, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "ktransformers" / "profile.json"
    cache.parent.mkdir()
    cache.write_text(text)
    tiny = ROOT / "models" / "tiny-moe" / "tiny-moe-q4_k_m.gguf"
    assert plan(tiny)["speed"]["decode"] > 0
    first = json.loads(cache.read_text())
    plan(tiny)
    assert json.loads(cache.read_text()) == first, "what is cached is not measured again"
