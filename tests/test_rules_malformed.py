"""Rule files that are wrong in some way, made systematically: each ends in exit status 4 and a message with file, line
and column (files that are no text: the file's name), or works where the mistake has a documented meaning
(docs/rules.md). Never a crash, never more than five seconds of processor time."""
import random
import re
import resource
import subprocess

import pytest

from support.kt import kt_path
from support.models import tiny_moe_path
from test_rules import MODELING, OPERATORS, shown

LINEAR = {"generate_device": "cuda:0", "prefill_device": "cuda:0", "generate_op": "KLinearMarlin",
          "prefill_op": "KLinearTorch", "num_bits": 4, "group_size": 64, "act_order": False, "is_k_full": True}
GOOD = [
    {"match": {"name": r"^model\.layers\.[0-2]\.(?!.*kv_b).*_proj$", "class": "torch.nn.Linear"},
     "replace": {"class": OPERATORS + "linear.KTransformersLinear", "kwargs": LINEAR}},
    {"match": {"name": r"\.mlp\.experts$"},
     "replace": {"class": OPERATORS + "experts.KTransformersExperts",
                 "kwargs": {"generate_device": "cpu", "generate_op": "KExpertsCPU", "backend": "llamafile",
                            "out_device": "cuda:1"}},
     "recursive": False},
    {"match": {"class": MODELING + "DeepseekV3Attention"},
     "replace": {"class": OPERATORS + "attention.KDeepseekV2Attention",
                 "kwargs": {"generate_device": "cuda:0", "absorb_for_prefill": True, "chunck_size": 1000}}},
    {"match": {"name": "^model$"},
     "replace": {"class": OPERATORS + "models.KDeepseekV2Model",
                 "kwargs": {"per_layer_prefill_intput_threshold": 0, "transfer_map": {2: "cuda:1"}}}},
    {"match": {"name": r"embed_tokens|\.norm$"}, "replace": {"class": "default", "kwargs": {"generate_device": "cpu"}}},
]


def text_of(rules) -> str:
    """Block YAML, so that positions are of interest."""
    lines = []

    def mapping(value: dict, indent: int) -> None:
        for key, item in value.items():
            if isinstance(item, dict) and item and all(isinstance(k, str) for k in item):
                lines.append(" " * indent + f"{key}:")
                mapping(item, indent + 2)
            else:
                lines.append(" " * indent + f"{key}: {shown(item)}")

    for rule in rules:
        start = len(lines)
        mapping(rule, 2)
        lines[start] = "- " + lines[start][2:]
    return "\n".join(lines) + "\n"


def spots(value=GOOD, path=()):
    """Path of every key of the good file."""
    entries = enumerate(value) if isinstance(value, list) else value.items()
    for key, item in entries:
        if isinstance(key, str):
            yield (*path, key)
        if isinstance(item, dict) and "transfer_map" not in (*path, key):
            yield from spots(item, (*path, key))


def changed(path, edit):
    """The good file with edit(parent mapping, key) done at path."""
    def copy(value):
        if isinstance(value, dict):
            return {k: copy(v) for k, v in value.items()}
        return [copy(v) for v in value] if isinstance(value, list) else value
    rules = copy(GOOD)
    parent = rules
    for key in path[:-1]:
        parent = parent[key]
    edit(parent, path[-1])
    return text_of(rules)


def renamed(old, new):
    def edit(parent, _):
        items = [(new if k == old else k, v) for k, v in parent.items()]
        parent.clear()
        parent.update(items)
    return edit


def set_to(value):
    def edit(parent, key):
        parent[key] = value
    return edit


NOT_TEXT = [["x"], {"a": "b"}, None]
DEVICES = ["gpu", "", "cuda:", "cuda:-1", "cuda:2", "cuda:99999999999999999999", "cuda:0x0", "cuda: 0", "CPU", "cpu:0",
           "xpu", "npu:0", "cuda:1 ", "cuda:1;", 3, 1.5, True, ["cpu"], {1: "cpu"}, "c" * 5000]
NUMBERS = ["four", "4", 4.5, True, [4], {4: "cpu"}, 10**30, -7]
OPS = ["KLinearMarlim", "KExpertsMarlin", "KTransformersLinear", "QuantizedLinearTorch", "KLinearIPEXLLM", "", 5, True,
       ["KLinearTorch"], {1: "cpu"}]
WRONG = {  # key → values that must be refused
    "match": ["x", ["x"], None, {}, 4], "replace": ["x", ["x"], None, 4],
    "name": [*NOT_TEXT, "(", ")", "[z-a]", "*a", "a{2,1}", "(?P<n", "(?<=a*)b", "\\", "(?<!a+)", "[[:foo:]]", "\\1(",
             "(?R)", "(?&no)", "(.+)+\\d{9}x", "(a|a?)*" * 40 + "(.*)*b$", "\\C", "(?:" * 400 + ")" * 400, "a" * 17000,
             "((a{1,1000}){1,1000}){1,1000}"],
    "class": [*NOT_TEXT, "", "torch.nn.Linearr", "no.such.Class", "torch nn Linear", "ktransformers.operators.",
              "." * 300],
    "kwargs": ["x", [1], 5, True], "recursive": ["x", "False", 0, None, ["x"], {"a": "b"}, 1.0],
    "generate_device": DEVICES, "prefill_device": DEVICES, "out_device": ["gpu", "cuda:x", "xpu", 3, 1.5, True, ["cpu"], {1: "cpu"}],
    "generate_op": OPS, "prefill_op": OPS, "num_bits": [*NUMBERS, 3, 0], "group_size": [*NUMBERS, 0, 48],
    "act_order": ["x", 1, 0.5, ["x"]], "is_k_full": ["x", 0, ["x"]],
    "backend": ["amx", "AMXint8", "", 4, True, ["llamafile"], {1: "cpu"}],
    "absorb_for_prefill": ["True", "x", 1, 0.5, ["x"], {1: "cpu"}], "chunck_size": ["x", 1.5, True, [4]],
    "per_layer_prefill_intput_threshold": [-1, "x", 1.5, True, [1], {1: "cpu"}],
    "transfer_map": ["cuda:0", 3, True, ["cuda:0"], {"a": "cpu"}, {-1: "cpu"}, {1.5: "cpu"}, {2: "gpu"}, {2: "cuda:7"},
                     {2: ["cpu"]}, {2: {}}],
}


def misspelt(key: str):
    """A letter less, one too many, two swapped, capitals, another word, not a name."""
    return [key[:-1], key + "s", key[1] + key[0] + key[2:], key.upper(), "zzzz", "'" + key + " '", "? [a]\n :",
            "2", "''", "<<"]


def retyped_cases():
    for path in spots():
        for i, value in enumerate(WRONG[path[-1]]):
            yield f"{path}#{i}", changed(path, set_to(value))


def misspelt_cases():
    seen = set()
    for path in spots():
        if path[-1] in seen:
            continue
        seen.add(path[-1])
        for name in misspelt(path[-1]):
            yield f"{path}→{name}", changed(path, renamed(path[-1], name))


def doubled_cases():
    lines = text_of(GOOD).splitlines()
    for i, line in enumerate(lines):
        if line[-1] != ":" and "transfer_map" not in line:  # a key with a value, written twice
            yield f"line {i + 1} twice", "\n".join(lines[:i + 1] + [line.replace("- ", "  ", 1)] + lines[i + 1:]) + "\n"


EMPTY = ["", "\n\n", "# nothing\n", "---\n...\n", "%"]
BAD_YAML = [
    "x", "17", "null", "{}", "[]", "a: b", "- x", "- 5", "- null", "-", "- [x]", "- {}",
    "'", '"', '- "\\q"', "- 'x", "[", "{", "- {match: ", "- [}", "- ]", "- match: : :", "- match\n  name: x",
    "\t- match: x", "- a: b\n c: d",
    "- match:\n\tname: x", "- !<", "- &", "- *", "- *nope", "- &a [*a]", "- &a {match: *a, replace: *a}",
    "- ? [x]\n  : y",
    "%YAML 9.9\n---\n- x", "@", "`", "- |\n - >\n", "- >-9x", "- match: {name: x, name: x}", "- ? match", "- %x",
    "[" * 3000, "{" * 3000, "- " * 3000, "[{" * 1500, "? " * 3000, "- {a: " * 3000, "&a " * 100,
    "!!map " * 100, "[" * 400 + "]" * 400,
    "\x01", "- \x07: x", "- match: {name: \"\\x07[\"}\n  replace: {class: \"\\e[31m\"}", "\u2028", "\ufeff\ufeff- x",
    "- match: {name: x}\n---\n- match: {name: x}\n", "- &a {x: 1}\n- <<: *a\n",
]


def explicit_cases():
    good = text_of(GOOD)
    for i, text in enumerate(EMPTY + BAD_YAML):
        yield f"bad yaml {i}: {text[:20]!r}", text
    for i, text in enumerate(BAD_YAML):
        yield f"after a good file {i}: {text[:20]!r}", good + text
    yield "two documents", good + "---\n" + good
    yield "too many rules", "- {match: {name: x}, replace: {kwargs: {generate_device: cpu}}}\n" * 5000
    yield "merge key", good + "- <<: {match: {name: x}}\n  replace: {}\n"
    yield "merge key in kwargs", good.replace("kwargs:\n", "kwargs:\n      <<: {generate_device: cpu}\n", 1)
    for indent in (0, 1, 2, 3, 5, 6, 7, 40):
        for key in ("class", "kwargs"):
            yield f"{key} at column {indent}", good.replace(f"\n    {key}:", "\n" + " " * indent + f"{key}:", 2)


def noise_cases():
    """Cut and damaged files: each is refused, or means what it says."""
    good = text_of(GOOD).encode()
    chance = random.Random(4)
    for i in range(60):
        yield f"cut {i}", good[:len(good) * i // 60]
    for i in range(120):
        damaged = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(good))] = chance.choice(
                b"\x01\x1b\t\n\r '\"[]{}:#&*!|>%@`-\\\x7f\x80\xc3\xff0aZ")
        yield f"damaged {i}", bytes(damaged)


def no_text_cases():
    good = text_of(GOOD).encode()
    yield "a NUL", good[:100] + b"\0" + good[100:]
    yield "UTF-16", good.decode().encode("utf-16")
    yield "UTF-32", good.decode().encode("utf-32")
    yield "a model", tiny_moe_path().read_bytes()[:50000]
    yield "more than 1 MiB", good + b"# " + b"x" * (1 << 20)
    yield "16 MiB of nesting", b"[" * (1 << 24)


WORKS = {  # unusual, and with a meaning
    "a byte order mark": "\ufeff" + text_of(GOOD), "DOS line ends": text_of(GOOD).replace("\n", "\r\n"),
    "document marks": "---\n" + text_of(GOOD) + "...\n", "a comment": "# x\n" + text_of(GOOD) + "# y",
    "no last line end": text_of(GOOD).rstrip("\n"),
    "kwargs: null": changed((3, "replace", "kwargs"), set_to(None)),
    "no kwargs": changed((3, "replace", "kwargs"), lambda parent, key: parent.pop(key)),
    "device ignored": changed((3, "replace", "device"), set_to(["anything"])),
    "tags are ignored": text_of(GOOD).replace("- match:", "- !!python/object:os.system\n  match:", 1),
    "an alias": "- match: {name: &n '^lm_head$'}\n  replace: {class: default, kwargs: &k {generate_device: cpu}}\n"
                "- match: {name: *n}\n  replace: {class: default, kwargs: *k}\n",
    "flow style": "[{match: {name: ^lm_head$}, replace: {class: default, kwargs: {generate_device: cpu}}}]",
    "JSON": '[{"match": {"name": "^lm_head$"}, "replace": {"class": "default", "kwargs": {"generate_device": "cpu"}}}]',
    "Unicode": text_of(GOOD) + "- match: {name: 'é世'}\n  replace: {kwargs: {generate_device: cpu}}\n",
    "not UTF-8": text_of(GOOD).encode() + b"- match: {name: '\xff\xfe'}\n  replace: {kwargs: {generate_device: cpu}}\n",
    "an unused anchor": text_of(GOOD).replace("- match:", "- &x\n  match:", 1),
    "a null operator": changed((0, "replace", "kwargs", "prefill_op"), set_to(None)),
}


def limit() -> None:
    """What runs away is killed before it hurts the machine."""
    resource.setrlimit(resource.RLIMIT_CPU, (6, 6))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


@pytest.fixture
def refusal(tmp_path):
    """Runs kt under the rules; asserts the contract that all outcomes share, and returns (refused, its message)."""
    (tmp_path / "ids.json").write_text("[1]")

    def go(name: str, rules, no_text=False) -> tuple[bool, str]:
        path = tmp_path / "rules.yaml"
        path.write_bytes(rules if isinstance(rules, bytes) else rules.encode())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([kt_path(), "logits", "--model", tiny_moe_path(), "--tokens-file", tmp_path / "ids.json",
                               "--output", tmp_path / "out.npy", "--rules", path, "--emulate-gpus", "2", "-t", "1"],
                              capture_output=True, timeout=120, check=False, preexec_fn=limit)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        message = done.stderr.decode(errors="replace")
        where = f"{name}: exit {done.returncode}: {message[:600]}"
        assert done.returncode in (0, 4), where
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5, where
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", message), where
        assert len(message) < 60000, where
        if done.returncode == 4:
            position = re.escape(str(path)) if no_text else re.escape(str(path)) + r":[1-9]\d*:[1-9]\d*: error: \S"
            assert re.search(position, message), where
        return done.returncode == 4, where
    return go


def test_the_good_file_works(refusal):
    was_refused, message = refusal("good", text_of(GOOD))
    assert not was_refused and "warning" not in message, message


@pytest.mark.parametrize("cases", [retyped_cases, misspelt_cases, doubled_cases, explicit_cases, no_text_cases])
def test_is_refused(refusal, cases):
    accepted = []
    for name, rules in cases():
        was_refused, where = refusal(name, rules, no_text=cases is no_text_cases)
        if not was_refused:
            accepted.append(where)
    assert not accepted, "\n".join(accepted)


def test_noise_is_refused_or_means_something(refusal):
    outcomes = [refusal(name, rules)[0] for name, rules in noise_cases()]
    assert sum(outcomes) > 60


@pytest.mark.parametrize("name", WORKS)
def test_works(refusal, name):
    was_refused, message = refusal(name, WORKS[name])
    assert not was_refused, message


def test_keys_left_out(refusal):
    needed = 0
    for path in spots():
        was_refused, where = refusal(f"without {path}", changed(path, lambda parent, key: parent.pop(key)))
        if path[-1] in ("match", "replace") or path[1:] == ("match", "name") and len(GOOD[path[0]]["match"]) == 1:
            needed += 1
            assert was_refused, where
    assert needed >= 13


def test_a_missing_file_is_named(tmp_path):
    for rules in (tmp_path / "none.yaml", tmp_path):
        done = subprocess.run([kt_path(), "run", tiny_moe_path(), "-p", "x", "--rules", rules], capture_output=True,
                              text=True, check=False)
        assert done.returncode > 0 and str(rules) in done.stderr


@pytest.mark.parametrize("key, value", [("act_order", "True"), ("is_k_full", "False")])
def test_a_flag_with_one_possible_value(tmp_path, key, value):
    rules = tmp_path / "rules.yaml"
    rules.write_text(changed((0, "replace", "kwargs", key), set_to(value == "True")))
    done = subprocess.run([kt_path(), "run", tiny_moe_path(), "-p", "x", "--rules", rules, "--emulate-gpus", "2"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 4 and key in done.stderr and "rules.yaml:" in done.stderr


@pytest.mark.parametrize("rules", [",", ", - x", "---\n,"])
def test_a_comma(refusal, rules):
    assert refusal("a comma", rules)[0]


def test_a_costly_pattern_below_a_rule_that_takes_everything(refusal):
    everything = "- match: {class: torch.nn.Module}\n  replace: {class: default, kwargs: {generate_device: cpu}}\n"
    costly = everything + "- match: {name: '^(.+)+x$'}\n  replace: {kwargs: {generate_device: cpu}}\n"
    was_refused, message = refusal("costly", costly)
    assert was_refused and "too many steps" in message, message


def test_many_patterns_share_a_budget_of_steps(refusal):
    """Each alone is cheap enough; thousands of them over all modules are not."""
    text = "".join(f"- match: {{name: '(\\w|\\.|.)*!{i}'}}\n  replace: {{kwargs: {{generate_device: cpu}}}}\n"
                   for i in range(4000))
    was_refused, message = refusal("many", text)
    assert was_refused and "too many steps" in message, message


def test_rules_are_read_before_the_weights(tmp_path):
    """A model that lacks a tensor: the rules are refused before anyone notices."""
    model, rules, ids = tmp_path / "broken.gguf", tmp_path / "rules.yaml", tmp_path / "ids.json"
    whole = tiny_moe_path().read_bytes()
    assert whole.count(b"blk.0.attn_norm.weight") == 1
    model.write_bytes(whole.replace(b"blk.0.attn_norm.weight", b"blk.0.attn_nork.weight"))
    ids.write_text("[1]")
    for text, status, message in ((text_of(GOOD), 6, "input_layernorm.weight"),
                                  (text_of(GOOD).replace("KLinearMarlin", "KLinearMarlim"), 4, "rules.yaml:")):
        rules.write_text(text)
        done = subprocess.run([kt_path(), "logits", "--model", model, "--tokens-file", ids, "--output",
                               tmp_path / "out.npy", "--rules", rules, "--emulate-gpus", "2"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == status and message in done.stderr, done.stderr


def test_there_are_enough_malformed_files():
    cases = (retyped_cases, misspelt_cases, doubled_cases, explicit_cases, no_text_cases)
    assert sum(len(list(make())) for make in cases) >= 600
