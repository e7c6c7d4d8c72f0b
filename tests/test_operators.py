"""Every operator of src/operators/operators.inc, chosen by a rule: a trace proves that it ran, on the device that
the rule named, and nothing else in its place."""
import json
import pathlib
import re

import pytest

from support.kt import run_kt

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "tests/data/golden_configs"
# module kind → a module of that kind, by path
PLACES = {
    "Linear": "self_attn.o_proj", "Experts": "mlp.experts", "Moe": "mlp", "Attention": "self_attn", "Gate": "mlp.gate",
    "Norm": "input_layernorm", "Mlp": "mlp", "DecoderLayer": "", "Rotary": "model.rotary_emb",
    "Embedding": "model.embed_tokens", "Decoder": "model", "Model": "",
}


def operator_rows():
    text = (ROOT / "src/operators/operators.inc").read_text()
    rows = re.findall(r'^OPERATOR\((\w+), (\w+), (\w+), "([^"]*)",\s*"([^"]*)",\s*"([^"]*)",\s*(\w+)\)',
                      text, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^OPERATOR\(", text, re.MULTILINE))
    return [dict(zip(("module", "name", "kind", "devices", "families", "kwargs", "maker"), row)) for row in rows]


ROWS = operator_rows()


def family_for(row) -> str:
    """A golden configuration that has modules of this operator's kind and suits its name."""
    families = row["families"].split()
    if row["kind"] == "Mlp" and families == ["*"]:
        return "llama"
    if families != ["*"]:
        return families[0]
    return "deepseek_v3" if "Yarn" in row["name"] else "qwen3_moe"


def layer_with(kind: str, family: str) -> int:
    config = json.loads((CONFIGS / f"{family}.json").read_text())
    if kind == "Mlp":
        return 0
    return config.get("first_k_dense_replace", 0) if kind in ("Experts", "Moe", "Gate") else 0


def path_for(kind: str, family: str) -> str:
    place = PLACES[kind]
    if kind == "Mlp" and family == "qwen2_moe":  # every layer is sparse
        place = "mlp.shared_expert"
    if place.startswith("model") or kind == "Model":
        return place
    if family == "mixtral":
        place = place.replace("mlp", "block_sparse_moe")
    return f"model.layers.{layer_with(kind, family)}" + (f".{place}" if place else "")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operators")
    made = {}

    def get(family: str, file_type: str = "Q8_0") -> pathlib.Path:
        if (family, file_type) not in made:
            path = folder / f"{family}-{file_type}.gguf"
            run_kt("quantize", "--dummy", CONFIGS / f"{family}.json", path, "--type", file_type, "--seed", "1")
            made[family, file_type] = path
        return made[family, file_type]
    return get


def traced(model, rules: str, tmp_path, *flags):
    """Zones of a short run under these rules: {path: {(operator, class, device), …}}."""
    (tmp_path / "rules.yaml").write_text(rules)
    (tmp_path / "ids.json").write_text("[1, 2, 3, 4, 5]")
    run_kt("logits", "--model", model, "--tokens-file", tmp_path / "ids.json", "--output", tmp_path / "logits.npy",
           "--rules", tmp_path / "rules.yaml", "--trace", tmp_path / "trace.json", *flags)
    zones = {}
    for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]:
        if event["ph"] == "X":
            args = event["args"]
            zones.setdefault(event["name"], set()).add((args["op"], args["class"], args["device"]))
    return zones


def rule(path: str, operator: str, **kwargs) -> str:
    pattern = "^" + path.replace(".", "\\.") + "$"
    lines = "".join(f"      {k}: {v}\n" for k, v in kwargs.items())
    return (f"- match:\n    name: '{pattern}'\n  replace:\n    class: ktransformers.operators.{operator}\n"
            f"    kwargs:\n{lines}")


def ids_of(row):
    return row["module"] + "." + row["name"]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("row", [r for r in ROWS if r["maker"] != "kWrapper"], ids=ids_of)
def test_the_chosen_operator_runs_on_the_chosen_device(models, row, device, tmp_path):
    family = family_for(row)
    if row["name"] == "KLinearFP8":
        pytest.skip("needs block-FP8 weights: tests/test_rules.py")
    path = path_for(row["kind"], family)
    rules = rule(path, ids_of(row), generate_device=device)
    if device.split(":")[0] not in row["devices"].split():
        with pytest.raises(AssertionError, match=rf"exited 4: (?s:.)*{row['name']} runs on"):
            traced(models(family), rules, tmp_path, "--emulate-gpus", "1")
        return
    try:
        zones = traced(models(family), rules, tmp_path, "--emulate-gpus", "1")
    except AssertionError as refusal:  # a rotary embedding of another scaling says so
        assert "Rotary" in row["name"] and "rotary embeddings, this model's are" in str(refusal)
        zones = traced(models("llama" if "V2" in row["name"] else "moonlight"), rules, tmp_path, "--emulate-gpus", "1")
    here = zones[path or "(model)"]
    if row["kind"] == "Gate":  # its product is a linear at the same path
        here = {zone for zone in here if not zone[0].startswith("KLinear")}
    assert here == {(row["name"], row["name"], device)}
    others = {op for p, ops in zones.items() if p != path for op, _, _ in ops}
    if row["kind"] not in ("DecoderLayer", "Norm", "Linear", "Experts"):
        assert row["name"] not in others or row["name"] == default_name(row["kind"], family)


def default_name(kind: str, family: str) -> str:
    for row in ROWS:
        if row["kind"] == kind and (row["families"] == "*" or family in row["families"].split()):
            return row["name"]
    raise KeyError(kind)


@pytest.mark.parametrize("wrapper", [r for r in ROWS if r["maker"] == "kWrapper"], ids=ids_of)
def test_a_wrapper_runs_the_operator_it_names(models, wrapper, tmp_path):
    path = path_for(wrapper["kind"], "qwen3_moe")
    for row in ROWS:
        if row["kind"] != wrapper["kind"] or row["maker"] == "kWrapper" or row["name"] == "KLinearFP8":
            continue
        device = "cpu" if "cpu" in row["devices"].split() else "cuda:0"
        rules = rule(path, ids_of(wrapper), generate_op=row["name"], generate_device=device)
        zones = traced(models("qwen3_moe"), rules, tmp_path, "--emulate-gpus", "1")
        assert zones[path] == {(row["name"], wrapper["name"], device)}


@pytest.mark.parametrize("row", [r for r in ROWS if r["devices"] == "cuda" and r["name"] != "KLinearFP8"], ids=ids_of)
def test_an_operator_that_needs_a_gpu_says_so(models, row, tmp_path):
    rules = rule(path_for(row["kind"], "qwen3_moe"), ids_of(row), generate_device="cuda")
    with pytest.raises(AssertionError, match=r"exited 4: (?s:.)*device 'cuda' does not exist: there is no GPU here"):
        traced(models("qwen3_moe"), rules, tmp_path)
