"""What a rule file means, one test per statement of docs/rules.md: rules run on a small model with GPUs emulated, and
the trace says which operator ran on which device."""
import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from support.fp8 import write_fp8_folder
from support.kt import run_kt
from support.models import tiny_moe_path
from test_operators import CONFIGS, models  # noqa: F401 (a fixture)

ROOT = pathlib.Path(__file__).resolve().parents[1]
OPERATORS = "ktransformers.operators."
MODELING = "ktransformers.models.modeling_deepseek_v3."
LAYERS = range(5)  # of tiny-moe, of which the first is dense


@dataclasses.dataclass
class Outcome:
    status: int
    messages: str
    zones: dict  # path → {(operator, device), …}
    logits: np.ndarray | None

    def paths_of(self, operator: str) -> set[str]:
        return {path for path, ran in self.zones.items() if any(op == operator for op, _ in ran)}

    def devices(self, pattern: str) -> set[str]:
        return {device for path, ran in self.zones.items() if re.search(pattern, path) for _, device in ran}


def shown(value) -> str:
    """A value as YAML flow text; text is quoted."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


def rule(name=None, match_class=None, to="default", recursive=None, **kwargs) -> str:
    match = {k: v for k, v in (("name", name), ("class", match_class)) if v is not None}
    target = to if to == "default" else OPERATORS + to
    text = f"- match: {shown(match)}\n  replace:\n    class: {target}\n    kwargs: {shown(kwargs)}\n"
    return text + ("" if recursive is None else f"  recursive: {recursive}\n")


@pytest.fixture
def run(tmp_path):
    def go(rules: str | None, *flags, model=tiny_moe_path(), n_gpus=2, tokens=(1, 2, 3, 4, 5)) -> Outcome:
        trace, logits, ids = tmp_path / "trace.json", tmp_path / "logits.npy", tmp_path / "ids.json"
        trace.unlink(missing_ok=True)
        ids.write_text(json.dumps(list(tokens)))
        command = ["logits", "--model", model, "--tokens-file", ids, "--output", logits, "--trace", trace,
                   "--act", "f32", "--kv", "f32", *flags]
        if rules is not None:
            (tmp_path / "rules.yaml").write_text(rules)
            command += ["--rules", tmp_path / "rules.yaml", "--emulate-gpus", n_gpus]
        done = run_kt(*command, check=False)
        zones = {}
        if trace.exists():
            for event in json.loads(trace.read_text())["traceEvents"]:
                if event["ph"] == "X":
                    zones.setdefault(event["name"], set()).add((event["args"]["op"], event["args"]["device"]))
        assert (done.returncode == 0) == bool(zones), done.stderr
        return Outcome(done.returncode, done.stderr, zones, np.load(logits) if done.returncode == 0 else None)
    return go


def refused(outcome: Outcome, *texts: str) -> None:
    assert outcome.status == 4
    assert re.search(r"rules\.yaml:\d+:\d+: error: ", outcome.messages)
    for text in texts:
        assert text in outcome.messages, outcome.messages


def warned(outcome: Outcome, text: str) -> None:
    assert outcome.status == 0, outcome.messages
    assert re.search(r"rules\.yaml:\d+:\d+: warning: .*" + re.escape(text), outcome.messages), outcome.messages


# ---- which modules

def test_a_name_is_searched_for_anywhere_in_the_path(run):
    outcome = run(rule("attn.o_pr", to="linear.KLinearTorch"))
    assert outcome.paths_of("KLinearTorch") == {f"model.layers.{i}.self_attn.o_proj" for i in LAYERS}


def test_the_root_has_the_empty_path(run):
    assert run(rule("^$", generate_device="cuda:1")).zones["(model)"] == {("KCausalLM", "cuda:1")}


def test_a_pattern_may_look_ahead(run):
    outcome = run(rule(r"^model\.layers\.(?!.*self_attn).*$", "torch.nn.Linear", to="linear.KLinearTorch"))
    here = outcome.paths_of("KLinearTorch")
    assert "model.layers.0.mlp.up_proj" in here and "model.layers.4.mlp.shared_experts.down_proj" in here
    assert not any("self_attn" in path for path in here) and "lm_head" not in here


def test_name_and_class_must_both_hold(run):
    outcome = run(rule(r"layers\.0\.", "torch.nn.Linear", to="linear.KLinearTorch", generate_device="cuda:0"))
    here = outcome.paths_of("KLinearTorch")
    assert here and all(path.startswith("model.layers.0.") and "_proj" in path for path in here)
    assert outcome.zones["model.layers.0.input_layernorm"] == {("KRMSNorm", "cpu")}
    assert outcome.zones["lm_head"] == {("KLinearCPUInfer", "cpu")}


def test_the_first_matching_rule_wins(run):
    special = rule(r"layers\.0\..*o_proj$", to="linear.KLinearQ8")
    general = rule("o_proj$", to="linear.KLinearTorch")
    outcome = run(special + general)
    assert outcome.paths_of("KLinearQ8") == {"model.layers.0.self_attn.o_proj"}
    assert len(outcome.paths_of("KLinearTorch")) == 4 and "warning" not in outcome.messages
    outcome = run(general + special)
    assert not outcome.paths_of("KLinearQ8")
    warned(outcome, "decides no module")
    assert "taken by the rules above" in outcome.messages


def test_layers_are_chosen_by_a_range(run):
    outcome = run(rule(r"^model\.layers\.([0-1])\.", "torch.nn.Linear", to="linear.KLinearTorch",
                       generate_device="cuda:0") +
                  rule(r"^model\.layers\.([2-9]|[1-9][0-9])\.", "torch.nn.Linear", to="linear.KLinearTorch",
                       generate_device="cuda:1"))
    for i in LAYERS:
        assert outcome.devices(rf"layers\.{i}\..*_proj$") == {"cuda:0" if i < 2 else "cuda:1"}


@pytest.mark.parametrize("name", ["DeepseekV3RotaryEmbedding", "DeepseekV3YarnRotaryEmbedding"])
def test_a_class_matches_its_subclasses(run, models, name):  # noqa: F811
    """The model's rotary embeddings are DeepseekV3YarnRotaryEmbedding, a DeepseekV3RotaryEmbedding."""
    outcome = run(rule(match_class=MODELING + name, to="RoPE.YarnRotaryEmbeddingV3"), model=models("deepseek_v3"))
    assert outcome.zones["model.rotary_emb"] == {("YarnRotaryEmbeddingV3", "cpu")}


def test_a_class_does_not_match_its_base(run):
    """tiny-moe's rotary embedding is not scaled."""
    outcome = run(rule(match_class=MODELING + "DeepseekV3YarnRotaryEmbedding", to="RoPE.YarnRotaryEmbeddingV3"))
    warned(outcome, "this rule decides no module of this model")


def test_every_module_is_a_torch_module(run):
    outcome = run(rule(match_class="torch.nn.Module", generate_device="cuda:1"))
    assert outcome.devices("") == {"cuda:1"} and len(outcome.zones) > 80


def test_classes_have_their_transformers_names_too(run):
    names = "transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3MoE", MODELING + "DeepseekV3MoE"
    for name in names:
        outcome = run(rule(match_class=name, to="experts.KDeepseekV3MoE"))
        assert outcome.paths_of("KDeepseekV3MoE") == {f"model.layers.{i}.mlp" for i in LAYERS[1:]}


def test_an_unknown_module_class_is_refused(run):
    refused(run(rule(match_class="torch.nn.Liner", to="linear.KLinearTorch")), "no module class 'torch.nn.Liner'",
            "did you mean torch.nn.Linear?")


def test_a_rule_that_decides_nothing_warns(run):
    outcome = run(rule(r"^model\.layers\.77\.", generate_device="cpu"))
    warned(outcome, "this rule decides no module of this model")
    assert "rules.yaml:1:3: " in outcome.messages


# ---- devices

def test_default_keeps_the_operator_and_sets_the_device(run):
    plain = run(None)
    outcome = run(rule("(layernorm|self_attn|mlp|norm)$", generate_device="cuda:1"))
    for path, ran in plain.zones.items():
        moved = re.search("(layernorm|self_attn|mlp|norm)$", path)
        assert outcome.zones[path] == {(op, "cuda:1" if moved else device) for op, device in ran}
    # An operator that cannot run there gives way to the first that can: KLinearCPUInfer to KLinearGPU.
    outcome = run(rule("^lm_head$", generate_device="cuda:1"))
    assert outcome.zones["lm_head"] == {("KLinearGPU", "cuda:1")}


def test_default_wants_a_device_where_there_are_weights(run):
    refused(run(rule("^lm_head$")), "class 'default' without generate_device, on 'lm_head', which has weights")
    assert run(rule("^model$")).status == 0


def test_replace_without_class_is_default(run):
    text = "- match: {name: '^lm_head$'}\n  replace: {kwargs: {generate_device: 'cuda:0'}}\n"
    assert run(text).devices("lm_head") == {"cuda:0"}


def test_what_no_rule_matches_is_on_the_default_device(run):
    outcome = run(rule(r"input_layernorm$", generate_device="cpu"), "--device", "cuda:1")
    assert outcome.devices("input_layernorm$") == {"cpu"}
    assert {d for p, ran in outcome.zones.items() if "input_layernorm" not in p for _, d in ran} == {"cuda:1"}


def test_a_parents_device_is_not_inherited(run):
    outcome = run(rule(r"^model\.layers\.0$", generate_device="cuda:0"))
    assert outcome.devices(r"^model\.layers\.0$") == {"cuda:0"}
    assert outcome.devices(r"^model\.layers\.0\.") == {"cpu"}


def test_cuda_is_the_first_gpu(run):
    assert run(rule("^lm_head$", generate_device="cuda")).devices("lm_head") == {"cuda:0"}


@pytest.mark.parametrize("device, text", [
    ("cuda:2", "there are cpu and 2 GPUs"), ("xpu", "no backend for it yet"), ("npu:0", "no backend for it yet"),
    ("gpu", "no device 'gpu'"), ("coda:0", "did you mean cuda:0?")])
def test_a_device_that_does_not_exist_is_refused(run, device, text):
    refused(run(rule("^lm_head$", generate_device=device)), text)


def test_old_files_may_have_a_device_beside_the_class(run):
    text = (f"- match: {{name: 'o_proj$'}}\n  replace:\n    class: {OPERATORS}linear.KLinearTorch\n"
            "    device: cuda:77\n    kwargs: {generate_device: cpu}\n")
    assert run(text).zones["model.layers.0.self_attn.o_proj"] == {("KLinearTorch", "cpu")}


def test_transfer_map(run):
    def model(map_text: str) -> Outcome:
        return run(rule("^model$", to="models.KDeepseekV2Model").replace("kwargs: {}",
                                                                        f"kwargs: {{transfer_map: {map_text}}}"))
    assert model("{2: 'cuda:0', 4: 'cuda:1'}").zones["model"] == {("KDeepseekV2Model", "cpu")}
    refused(model("{2: 'cuda:0', 4: 'cuda:5'}"), "device 'cuda:5' does not exist")
    refused(model("cuda:0"), "wanted a mapping {layer: device}")
    refused(model("{first: 'cuda:0'}"), "wants entries 'layer number: device'")
    warned(model("{9: 'cuda:0'}"), "layer 9 does not exist, the model has 5")


# ---- parents and children

@pytest.mark.parametrize("word", ["False", "false", "FALSE", "no", "No", "off", "Off"])
def test_recursive_false_leaves_the_children_alone(run, word):
    outcome = run(rule(r"^model\.layers\.0$", generate_device="cpu", recursive=word) +
                  rule(match_class="torch.nn.Linear", to="linear.KLinearTorch"))
    here = outcome.paths_of("KLinearTorch")
    assert not any(path.startswith("model.layers.0.") for path in here)
    assert "model.layers.1.self_attn.o_proj" in here and "lm_head" in here


@pytest.mark.parametrize("word", ["True", "true", "TRUE", "yes", "Yes", "on", "On", None])
def test_recursive_is_the_default(run, word):
    outcome = run(rule(r"^model\.layers\.0$", generate_device="cpu", recursive=word) +
                  rule(match_class="torch.nn.Linear", to="linear.KLinearTorch"))
    assert "model.layers.0.self_attn.o_proj" in outcome.paths_of("KLinearTorch")


@pytest.mark.parametrize("word", ["'False'", "0", "null", "maybe"])
def test_recursive_is_a_boolean(run, word):
    refused(run(rule("^model$", generate_device="cpu", recursive=word)), "'recursive' is neither True nor False")


def test_children_of_a_replaced_parent_are_replaceable(run):
    outcome = run(rule(r"\.mlp$", MODELING + "DeepseekV3MoE", to="experts.KDeepseekV3MoE") +
                  rule(r"\.mlp\.experts$", to="experts.KExpertsTorch", recursive=False))
    assert outcome.paths_of("KDeepseekV3MoE") == {f"model.layers.{i}.mlp" for i in LAYERS[1:]}
    assert outcome.paths_of("KExpertsTorch") == {f"model.layers.{i}.mlp.experts" for i in LAYERS[1:]}


# ---- operators and keyword arguments

def test_an_unknown_kwarg_is_refused(run):
    refused(run(rule("^lm_head$", to="linear.KLinearTorch", generate_devise="cpu")),
            "no operator takes 'generate_devise'", "did you mean 'generate_device'?")


def test_a_kwarg_that_the_operator_does_not_take_warns(run):
    outcome = run(rule("^lm_head$", to="linear.KLinearTorch", backend="AMXInt8"))
    warned(outcome, "KLinearTorch does not take 'backend': it has no effect")
    assert outcome.zones["lm_head"] == {("KLinearTorch", "cpu")}


@pytest.mark.parametrize("none", ["None", "null", "'None'", "~"])
def test_an_operator_may_be_none(run, none):
    """Not given: the wrapper's own choice, which is the file's weights on the CPU and 4 bits on a GPU."""
    text = rule("^lm_head$", to="linear.KTransformersLinear", generate_device="DEVICE")
    text = text.replace("'DEVICE'", f"DEVICE, generate_op: {none}, prefill_op: {none}")
    for device, op in (("cpu", "KLinearCPUInfer"), ("cuda:0", "KLinearMarlin")):
        assert run(text.replace("DEVICE", device)).zones["lm_head"] == {(op, device)}
    text = text.replace("^lm_head$", r"\.experts$").replace("linear.KTransformersL", "experts.KTransformersL")
    text = text.replace("KTransformersLinear", "KTransformersExperts")
    for device, op in (("cpu", "KExpertsCPU"), ("cuda:0", "KExpertsMarlin")):
        assert run(text.replace("DEVICE", device)).zones["model.layers.1.mlp.experts"] == {(op, device)}


def test_experts_are_on_the_cpu_when_the_rule_names_no_device(run):
    outcome = run(rule(r"\.experts$", to="experts.KTransformersExperts"), "--device", "cuda:0")
    assert outcome.zones["model.layers.1.mlp.experts"] == {("KExpertsCPU", "cpu")}


def two_phases(run, threshold: int) -> set:
    text = rule("^model$", to="models.KDeepseekV2Model", per_layer_prefill_intput_threshold=threshold)
    text += rule("o_proj$", to="linear.KTransformersLinear", generate_device="cpu", generate_op="KLinearQ8",
                 prefill_device="cuda:1", prefill_op="KLinearTorch")
    return run(text).zones["model.layers.3.self_attn.o_proj"]


@pytest.mark.parametrize("threshold", [0, 5, 30000])  # 0: off; the prompt has 5 tokens
def test_the_prefill_operator_does_not_run_short_prompts(run, threshold):
    assert two_phases(run, threshold) == {("KLinearQ8", "cpu")}


def test_the_prefill_operator_runs_long_prompts(run):
    assert ("KLinearTorch", "cuda:1") in two_phases(run, 4)


def test_an_operator_must_fit_the_module(run):
    refused(run(rule("^lm_head$", to="experts.KExpertsCPU")), "KExpertsCPU replaces modules of kind Experts",
            "'lm_head' is of kind Linear")
    refused(run(rule("self_attn$", to="attention.KLlamaAttention")), "this model is of")
    refused(run(rule("^lm_head$", to="linear.KTransformersLinear", generate_op="KExpertsCPU")),
            "no Linear operator 'KExpertsCPU'")


def test_an_operator_that_nobody_provides_is_refused(run):
    refused(run(rule("^lm_head$", to="linear.KLinearTorhc")), f"did you mean {OPERATORS}linear.KLinearTorch?")
    refused(run(rule("^lm_head$", to="experts.KLinearTorch")), f"did you mean {OPERATORS}linear.KLinearTorch?")


def refused_rows() -> list[tuple[str, str]]:
    text = (ROOT / "src/operators/refused.inc").read_text()
    rows = re.findall(r'^REFUSED\("([^"]+)", "([^"]+)"\)', text, re.MULTILINE)
    assert len(rows) > 30
    return rows


@pytest.mark.parametrize("name, why", refused_rows(), ids=[name for name, _ in refused_rows()])
def test_a_class_of_the_original_that_is_not_here_says_why(run, name, why):
    refused(run(rule("^lm_head$", to=name)), f"no operator class '{OPERATORS}{name}'", why)


def test_an_operator_that_does_less_than_the_originals_warns(run, models):  # noqa: F811
    outcome = run(rule("self_attn$", to="attention.KLlamaAttention"), model=models("llama"))
    warned(outcome, "mode=long_context is not there")
    assert outcome.zones["model.layers.0.self_attn"] == {("KLlamaAttention", "cpu")}


def test_all_errors_are_reported_together(run):
    outcome = run(rule("(", generate_device="cpu") + rule("^model$", generate_device="cpu", recursive="x"))
    refused(outcome, "2 problems in the rule file", "rules.yaml:1:17: error", "rules.yaml:9:14: error")


# ---- the numbers

def test_where_a_module_runs_does_not_change_the_logits(run):
    plain = run(None).logits
    everywhere = rule(r"layers\.[0-2]\.", generate_device="cuda:0") + rule(".", generate_device="cuda:1")
    mixed = (rule(r"layers\.[13]\..*_proj$", to="linear.KLinearTorch") +
             rule(r"\.experts$", to="experts.KExpertsTorch", generate_device="cuda:0") +
             rule(".", generate_device="cpu"))
    for text in (everywhere, mixed):
        assert np.abs(run(text).logits - plain).max() <= 1e-4 * np.abs(plain).max()


def test_block_fp8_linears(run, models, tmp_path):  # noqa: F811
    """KLinearFP8 multiplies the file's block-FP8 weights; KLinearTorch, which decodes them, agrees."""
    config = json.loads((CONFIGS / "llama.json").read_text())
    folder = write_fp8_folder(tmp_path / "fp8", models("llama", "F32"), config)
    outcomes = [run(rule("o_proj$", to=f"linear.{op}", generate_device="cuda:0"), model=folder)
                for op in ("KLinearFP8", "KLinearTorch")]
    path = "model.layers.0.self_attn.o_proj"
    assert outcomes[0].zones[path] == {("KLinearFP8", "cuda:0")}
    assert np.abs(outcomes[0].logits - outcomes[1].logits).max() <= 1e-4 * np.abs(outcomes[1].logits).max()
    outcome = run(rule("o_proj$", to="linear.KLinearFP8", generate_device="cuda:0"), model=models("llama"))
    assert outcome.status != 0 and "KLinearFP8" in outcome.messages
