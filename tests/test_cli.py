"""The command line: help, errors with their exit status, run, chat on a terminal, logits, bench, completion."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import gguf
import numpy as np
import pytest
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from support.kt import kt_path, run_kt

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = ROOT / "models" / "tiny-moe" / "tiny-moe-q4_k_m.gguf"
COMMANDS = ["run", "chat", "list", "pull", "inspect", "quantize", "plan", "bench", "perplexity", "logits", "doctor",
            "completion", "version"]
USAGE, NOT_FOUND, BAD_FILE, UNSUPPORTED, MISMATCH, NO_MEMORY, TOO_LONG, IO = range(2, 10)

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 320,
    "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 4,
    "num_experts_per_tok": 2, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
    "attention_bias": False, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
}


def failure(*args, status, stdin=None):
    """Runs kt, which must fail with `status` and exactly one line on stderr; returns that line."""
    done = run_kt(*args, check=False, stdin=stdin)
    assert done.returncode == status, f"exit {done.returncode}, stderr: {done.stderr}"
    assert done.stderr.startswith("kt: error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


@pytest.fixture(scope="session")
def dummy_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("dummy") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="session")
def dummy(dummy_config):
    """A small model of random weights, without a tokenizer."""
    path = dummy_config.parent / "dummy-q4_k_m.gguf"
    run_kt("quantize", "--dummy", dummy_config, path, "--type", "Q4_K_M", "--seed", "1")
    return path


@pytest.fixture(scope="session")
def tiny():
    if not TINY.exists():
        pytest.skip("models/tiny-moe is not there")
    return TINY


# Help ----------------------------------------------------------------------------------------------------

def test_help_lists_every_command():
    text = run_kt("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.M), command
    assert "Examples:" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command):
    done = run_kt(command, "--help")
    assert done.stderr == ""
    assert f"kt {command}" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 130


def test_no_arguments_prints_help_and_fails():
    done = run_kt(check=False)
    assert done.returncode == USAGE
    assert "kt [OPTIONS] COMMAND" in done.stderr


def test_version():
    first = run_kt("version").stdout.splitlines()[0]
    assert re.match(r"kt \d+\.\d+\.\d+ ", first)
    assert run_kt("--version").stdout.strip() == " ".join(first.split()[:2])
    assert "deepseek_v3" in run_kt("version").stdout


def test_the_binary_needs_glibc_only():
    if shutil.which("ldd") is None:
        pytest.skip("no ldd")
    listed = subprocess.run(["ldd", kt_path()], capture_output=True, text=True).stdout
    if "asan" in listed or "tsan" in listed:
        pytest.skip("a sanitizer build")
    names = {line.split()[0].split("/")[-1].split(".so")[0] for line in listed.splitlines()}
    assert names <= {"linux-vdso", "libc", "libm", "ld-linux-x86-64", "libpthread", "libdl", "librt"}


# Mistakes on the command line ----------------------------------------------------------------------------

@pytest.mark.parametrize("args, words", [
    (["rnu"], ["'rnu'", "did you mean run?"]),
    (["xyzzy"], ["'xyzzy'", "kt --help"]),
    (["run", "m.gguf", "-p", "x", "--topk", "3"], ["--topk", "did you mean --top-k?", "kt run --help"]),
    (["run", "m.gguf", "--prmpt=x"], ["--prmpt", "did you mean --prompt?"]),
    (["run", "--modle", "x"], ["--modle"]),
    (["run"], ["MODEL"]),
    (["run", "m.gguf"], ["-p TEXT", "--prompt-file"]),
    (["run", "m.gguf", "extra", "-p", "x"], ["'extra'"]),
    (["run", "m.gguf", "-p", "x", "--top-p", "3"], ["--top-p", "'3'", "from 0 to 1"]),
    (["run", "m.gguf", "-p", "x", "--temp", "nan"], ["--temp", "'nan'"]),
    (["run", "m.gguf", "-p", "x", "-n", "ten"], ["--max-tokens", "'ten'", "whole number"]),
    (["run", "m.gguf", "-p", "x", "--seed", "99999999999999999999999"], ["--seed"]),
    (["run", "m.gguf", "-p", "x", "--kv", "f61"], ["'f61'", "did you mean f16?", "f8_e4m3"]),
    (["run", "m.gguf", "-p", "x", "--isa", "avx1024"], ["'avx1024'", "ref, avx2, avx512, amx"]),
    (["run", "m.gguf", "-p", "x", "--logit-bias", "7"], ["--logit-bias", "ID=V"]),
    (["run", "m.gguf", "-p", "x", "--stop", ""], ["--stop", "empty"]),
    (["run", "m.gguf", "-p", "x", "--system", "y"], ["--system", "--chat"]),
    (["run", "m.gguf", "-p", b"\xff"], ["--prompt", "UTF-8"]),
    (["bench"], ["MODEL", "--dummy"]),
    (["bench", "m.gguf", "-p", "5,x"], ["--prompt", "'x'"]),
    (["bench", "m.gguf", "-p", "0", "-n", "0"], ["nothing to measure"]),
    (["bench", "--kernels", "xyzzy"], ["--kernels", "'xyzzy'"]),
    (["bench", "--kernels", "-p", "5"], ["--kernels", "--prompt"]),
    (["bench", "--kernels", "--m", "0"], ["--m", "'0'"]),
    (["bench", "--kernels", "--shapes", "qwen3-30"], ["did you mean qwen3-30b?"]),
    (["bench", "--kernels", "--formats", "q9"], ["--formats", "'q9'"]),
    (["bench", "m.gguf", "--m", "1"], ["--m", "--kernels"]),
    (["completion", "tcsh"], ["'tcsh'", "bash, zsh, fish"]),
    (["quantize", "a.gguf", "b.gguf", "--type", "Q4_K_X"], ["Q4_K_X"]),
])
def test_mistakes(args, words):
    args = [os.fsdecode(a) if isinstance(a, bytes) else a for a in args]
    line = failure(*args, status=USAGE)
    for word in words:
        assert word in line


# Files that cannot be used -------------------------------------------------------------------------------

def test_missing_model_and_prompt_file(tmp_path):
    assert "nowhere.gguf" in failure("run", tmp_path / "nowhere.gguf", "-p", "x", status=NOT_FOUND)
    assert "prompt.txt" in failure("run", "m.gguf", "--prompt-file", tmp_path / "prompt.txt", status=NOT_FOUND)


def test_truncated_and_foreign_files(tmp_path, dummy):
    data = dummy.read_bytes()
    cut = tmp_path / "cut.gguf"
    for n in (0, 3, 20, 400, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:n])
        for command in (["inspect", cut], ["run", cut, "-p", "x"]):
            assert "cut.gguf" in failure(*command, status=BAD_FILE)
    cut.write_bytes(b"\x7fELF" + bytes(4096))
    failure("inspect", cut, status=BAD_FILE)


def test_model_without_tokenizer_says_so(dummy):
    line = failure("run", dummy, "-p", "x", status=NOT_FOUND)
    assert "tokenizer" in line


def test_prompt_that_is_not_utf8(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"abc\xc3(")
    assert "byte 3" in failure("run", "m.gguf", "--prompt-file", bad, status=BAD_FILE)


@pytest.mark.parametrize("text, word", [
    ("{}", "JSON array"), ("[1, 2", "JSON array"), ("[]", "no token ids"), ("[1, \"a\"]", "element 1"),
    ("[1, -2]", "element 1"), ("[1.5]", "element 0"), ("[" * 100000, "JSON array"),
    ("[" * 50 + "1" + "]" * 50, "element 0"), ("[99999999999999]", "element 0"),
])
def test_bad_token_files(tmp_path, dummy, text, word):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text(text)
    assert word in failure("logits", "--model", dummy, "--tokens-file", ids, "--output", out, status=BAD_FILE)
    assert not out.exists()


def test_token_outside_the_vocabulary(tmp_path, dummy):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text("[1, 320]")
    assert "320" in failure("logits", "--model", dummy, "--tokens-file", ids, "--output", out, status=USAGE)
    assert list(tmp_path.iterdir()) == [ids]


def test_outputs_that_cannot_be_written(tmp_path, dummy, dummy_config):
    ids = tmp_path / "ids.json"
    ids.write_text("[1, 2]")
    gone = tmp_path / "missing" / "out"
    assert "missing" in failure("logits", "--model", dummy, "--tokens-file", ids, "--output", gone, status=IO)
    assert "missing" in failure("quantize", dummy, gone, "--type", "Q8_0", status=IO)
    assert "missing" in failure("quantize", "--dummy", dummy_config, gone, "--type", "Q8_0", status=IO)
    assert "folder" in failure("logits", "--model", dummy, "--tokens-file", ids, "--output", tmp_path, status=IO)
    before = dummy.read_bytes()
    failure("quantize", dummy, dummy, "--type", "Q8_0", status=USAGE)
    assert dummy.read_bytes() == before
    assert list(tmp_path.iterdir()) == [ids]


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_quantize_leaves_nothing(tmp_path, which):
    if not can_make_nameless_files(tmp_path):
        pytest.skip("this file system has no nameless files")
    config, out = tmp_path / "config.json", tmp_path / "out"
    config.write_text(json.dumps(CONFIG | {"vocab_size": 4_000_000}))
    out.mkdir()
    process = subprocess.Popen([kt_path(), "quantize", "--dummy", config, out / "big.gguf", "--type", "Q8_0"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    counters = pathlib.Path(f"/proc/{process.pid}/io")
    while process.poll() is None and int(re.search(r"wchar: (\d+)", counters.read_text())[1]) < 3 << 20:
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(which)
    assert process.wait() == -which
    assert list(out.iterdir()) == []


def test_a_model_that_shrinks_while_in_use(tmp_path):
    config, path, out = tmp_path / "config.json", tmp_path / "shrinking.gguf", tmp_path / "out"
    config.write_text(json.dumps(CONFIG | {"vocab_size": 200_000}))
    out.mkdir()
    run_kt("quantize", "--dummy", config, path, "--type", "Q8_0")
    process = subprocess.Popen([kt_path(), "quantize", path, out / "small.gguf", "--type", "Q4_K_M"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and path.name not in maps.read_text():
        time.sleep(0.002)
    os.truncate(path, 65536)
    _, errors = process.communicate()
    assert process.returncode == IO, errors
    assert errors.splitlines()[-1].startswith(f"kt: error: {path}: cannot be read")
    assert list(out.iterdir()) == [] or not can_make_nameless_files(out)


def can_make_nameless_files(folder):
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True


def test_full_disk_behind_standard_output():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([kt_path(), "version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == IO
    assert "standard output" in done.stderr


# inspect, logits, bench, perplexity, doctor ---------------------------------------------------------------

def test_inspect(dummy):
    text = run_kt("inspect", dummy).stdout
    assert "qwen3_moe" in text
    assert "4 experts of width 256, 2 per token" in text
    assert "model.layers.{0-1}, 2 layers" in text
    assert "logits" in text
    boxes = [line for line in text.splitlines() if line.startswith(("┌", "│", "└"))]
    assert len({len(line) for line in boxes}) == 1  # every box is equally wide
    tensors = run_kt("inspect", dummy, "--tensors").stdout
    assert "model.layers.1.mlp.experts.3.down_proj.weight" in tensors
    data = json.loads(run_kt("inspect", dummy, "--json").stdout)
    assert data["n_layers"] == 2 and data["n_experts"] == 4
    names = {t["name"]: t for t in data["tensors"]}
    assert names["lm_head.weight"]["shape"] == [320, 256]
    assert "has no chat template" in failure("inspect", dummy, "--template", status=NOT_FOUND)


def test_text_of_files_cannot_steer_the_terminal(tmp_path, dummy_config):
    model = tmp_path / "named.gguf"
    run_kt("quantize", "--dummy", dummy_config, model, "--type", "Q8_0", "--layers", "1",
           "--name", "\x1b[2Jgröße\u009b31m")
    text = run_kt("inspect", model).stdout
    assert r"\x1b[2Jgröße\xc2\x9b31m" in text and "\x1b" not in text and "\u009b" not in text
    assert r"no\x1b[2Jwhere\xff" in failure("inspect", os.fsdecode(b"no\x1b[2Jwhere\xff"), status=NOT_FOUND)


@pytest.mark.parametrize("command", [["quantize", "--dry-run"], ["bench"]])
def test_dummies_have_at_most_the_layers_of_the_model(command, dummy_config):
    line = failure(*command, "--dummy", dummy_config, "--type", "Q8_0", "--layers", "3",
                   *(["out.gguf"] if command[0] == "quantize" else []), status=USAGE)
    assert "--layers: 3 layers: the model has 2" in line


def read_logits(model, ids_path, out, *flags):
    run_kt("logits", "--model", model, "--tokens-file", ids_path, "--output", out, *flags)
    return np.load(out)


def test_logits_by_every_path(tmp_path, dummy):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text(json.dumps([(7 * i + 3) % 320 for i in range(40)]))
    proof = ["--act", "f32", "--kv", "f32"]
    whole = read_logits(dummy, ids, out, *proof)
    assert whole.shape == (40, 320) and whole.dtype == np.float32 and np.isfinite(whole).all()
    for flags in (["--chunk", "7"], ["--decode"], ["--isa", "ref"], ["--threads", "1"]):
        other = read_logits(dummy, ids, out, *proof, *flags)
        np.testing.assert_allclose(other, whole, atol=2e-4 * np.abs(whole).max(), err_msg=str(flags))


def test_profile_of_experts(tmp_path, dummy):
    tokens, output, uses = tmp_path / "tokens.json", tmp_path / "logits.npy", tmp_path / "uses.json"
    tokens.write_text(json.dumps(list(range(3, 40))))
    run = ["logits", "--model", dummy, "--tokens-file", tokens, "--output", output, "--gpus", "0"]
    run_kt(*run, "--save-expert-profile", uses)
    layers = json.loads(uses.read_text())["uses"]
    assert list(layers) == ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"]
    assert all(len(counts) == 4 and sum(counts) == 37 * 2 for counts in layers.values())
    run_kt(*run, "--expert-profile", uses)
    output.unlink()
    assert "nowhere" in failure(*run, "--save-expert-profile", tmp_path / "nowhere" / "uses.json", status=IO)
    assert not output.exists()  # before anything was computed


def test_prompt_longer_than_the_context(tmp_path, dummy):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text(json.dumps([1] * 600))
    line = failure("logits", "--model", dummy, "--tokens-file", ids, "--output", out, status=TOO_LONG)
    assert "600" in line and "512" in line


def test_bench(dummy, dummy_config):
    done = run_kt("bench", dummy, "-p", "16", "-n", "4", "-r", "2", "--json")
    rows = json.loads(done.stdout)
    assert [r["test"] for r in rows] == ["pp16", "tg4"]
    assert all(len(r["samples_ts"]) == 2 and r["avg_ts"] > 0 for r in rows)
    assert "pp16 1/2" in done.stderr
    assert re.search(r"^loaded [\d.]+ [KMG]iB in [\d.]+ s, [\d.]+ GB/s$", done.stderr, re.M)
    table = run_kt("bench", "--dummy", dummy_config, "--type", "Q8_0", "--layers", "1", "-p", "8", "-n", "2",
                   "-r", "1").stdout
    assert re.search(r"\| +pp8 \|", table) and "1 layers" in table and "±" in table
    assert "Q9_9" in failure("bench", "--dummy", dummy_config, "--type", "Q9_9", status=USAGE)


SMALL_LAYER = ["bench", "--kernels", "--shapes", "256x256:4:2", "--m", "1,3", "-r", "2", "-t", "2"]


def test_bench_of_kernels(tmp_path):
    file = tmp_path / "now.json"
    done = run_kt(*SMALL_LAYER, "--formats", "q8_0,int8", "--json", file)
    assert re.search(r"moe q8_0 256x256:4:2 .*4 experts, 2 active", done.stdout)
    assert re.search(r"moe q8_0 256x256:4:2 m 3: [\d.]+ ms", done.stderr)
    report = json.loads(file.read_text())
    assert report["ceilings"]["read"][0]["n_threads"] == 1 and report["machine"]["n_threads"] == 2
    rows = report["results"]
    assert {r["m"] for r in rows} == {1, 3}
    assert {"moe q8_0 256x256:4:2", "moe int8 256x256:4:2"} < {r["name"] for r in rows}
    assert any(r["name"].startswith("dot_") for r in rows)
    for r in rows:
        assert r["seconds"] > 0 and r["samples"] >= 2 and 0 < r["error"] < 0.1, r


def test_bench_of_attention(tmp_path):
    file = tmp_path / "attention.json"
    done = run_kt("bench", "--kernels", "^attention.*2048", "--shapes", "qwen3-30b", "--formats", "q8_0",
                  "--m", "1,3", "-r", "2", "-t", "2", "--json", file)
    assert re.search(r"attention q8_0 qwen3-30b 2048 .*32 heads of 128, 4 of keys and values, 2048 positions", done.stdout)
    rows = json.loads(file.read_text())["results"]
    assert [(r["m"], r["context"]) for r in rows] == [(1, 2048), (3, 2048)]
    assert all(r["share_of_read"] > 0 and r["share_of_peak"] > 0 and r["error"] < 0.01 for r in rows)


def test_bench_against_a_baseline(tmp_path):
    """Times are made up, so that the comparison is certain whatever the machine does."""
    file = tmp_path / "then.json"
    moe = [*SMALL_LAYER, "--formats", "q8_0"]
    moe.insert(2, "^moe")
    report = json.loads(run_kt(*moe, "--json").stdout)
    for seconds, status in ((1e3, 0), (1e-12, 1)):
        for r in report["results"]:
            r["seconds"] = seconds
        file.write_text(json.dumps(report))
        done = run_kt(*moe, "--baseline", file, check=False)
        assert done.returncode == status
        assert f"2 of 2 results are in the baseline; {2 * status} lost" in done.stdout
    assert "version" in failure(*moe, "--baseline", ROOT / "CMakePresets.json", status=BAD_FILE)
    failure(*moe, "--baseline", tmp_path / "none.json", status=NOT_FOUND)


def test_doctor():
    text = run_kt("doctor", "--threads", "2").stdout
    for label in ("CPU", "ISA", "Memory", "cgroup", "Huge pages", "GPU", "DRAM read", "Forward"):
        assert re.search(rf"^{label}\b", text, re.M), label
    assert "they agree" in text and "DIFFER" not in text


def test_list_and_unknown_pull():
    assert "smollm2" in run_kt("list").stdout
    assert "did you mean smollm2?" in failure("pull", "smolm2", status=NOT_FOUND)


# Completion ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_parses(tmp_path, shell):
    script = tmp_path / f"kt.{shell}"
    script.write_text(run_kt("completion", shell).stdout)
    for command in COMMANDS:
        assert command in script.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; the script's words were checked, its syntax was not")
    subprocess.run([shell, "-n", script], check=True)


def complete_in_bash(words):
    program = ('source <("$1" completion bash); shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kt; '
               'printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", program, "bash", kt_path(), *words], capture_output=True, text=True,
                          check=True)
    return done.stdout.split()


def test_bash_completes_commands_flags_and_values():
    assert complete_in_bash(["kt", "qu"]) == ["quantize"]
    assert complete_in_bash(["kt", "run", "--top"]) == ["--top-k", "--top-p"]
    assert complete_in_bash(["kt", "run", "--kv", "q"]) == ["q8_0"]
    assert complete_in_bash(["kt", "completion", ""]) == ["bash", "zsh", "fish"]


# run and chat on the bundled model -----------------------------------------------------------------------

def detected_nodes():
    return len(list(pathlib.Path("/sys/devices/system/node").glob("node[0-9]*")))


def test_run(tiny, tmp_path):
    args = ["run", tiny, "-p", "Once upon a time", "-n", "24", "--temp", "0"]
    done = run_kt(*args)
    assert len(done.stdout.strip()) > 20
    for label in ("prompt eval count", "prompt eval duration", "prompt eval rate", "eval count",
                  "eval duration", "eval rate"):
        assert re.search(rf"^{label}:", done.stderr, re.M), label
    assert run_kt(*args, "-q").stderr == ""
    assert run_kt(*args).stdout == done.stdout
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Once upon a time")
    assert run_kt("run", tiny, "--prompt-file", prompt, *args[4:]).stdout == done.stdout
    assert run_kt("run", tiny, "--prompt-file", "-", *args[4:], stdin="Once upon a time").stdout == done.stdout
    assert run_kt(*args, "--echo").stdout == "Once upon a time" + done.stdout
    assert "model.layers" in run_kt(*args, "--show-placement").stderr


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_emulated_numa_nodes_change_no_token(tiny, threads):
    args = ["run", tiny, "-p", "Once upon a time", "-n", "12", "--temp", "0", "-t", threads, "--show-placement"]
    one = run_kt(*args)
    assert "NUMA" not in one.stderr or detected_nodes() > 1
    for nodes in ("2", "3"):
        done = run_kt(*args, "--emulate-nodes", nodes)
        assert done.stdout == one.stdout
        divided = re.search(r"weights divided over (\d) NUMA nodes \((.*) threads\), one copy", done.stderr)
        if threads == "1":
            assert divided is None
            continue
        each = [int(n) for n in divided[2].split(" + ")]
        assert len(each) == int(divided[1]) == min(int(nodes), int(threads)) and sum(each) == int(threads)


def test_run_sampling_flags(tiny):
    args = ["run", tiny, "-p", "Once upon a time", "-n", "16", "-q"]
    seeded = [run_kt(*args, "--seed", "7", "--temp", "1.5").stdout for _ in range(2)]
    assert seeded[0] == seeded[1]
    others = {run_kt(*args, "--seed", str(s), "--temp", "1.5").stdout for s in range(1, 5)}
    assert len(others) > 1
    plain = run_kt(*args, "--temp", "0").stdout
    stop = plain.split()[1]
    assert stop not in run_kt(*args, "--temp", "0", "--stop", stop).stdout
    run_kt(*args, "--top-k", "5", "--top-p", "0.9", "--min-p", "0.01", "--typical", "0.9", "--repeat-penalty",
           "1.1", "--frequency-penalty", "0.1", "--presence-penalty", "-0.1", "--repeat-last-n", "-1",
           "--logit-bias", "3=-inf", "--ignore-eos")


def test_run_takes_the_models_sampling_values(tiny, tmp_path):
    path = tmp_path / "greedy.gguf"
    reader = gguf.GGUFReader(tiny)
    writer = gguf.GGUFWriter(path, arch=reader.get_field("general.architecture").contents())
    temperature = MetadataDetails(gguf.GGUFValueType.FLOAT32, 0.0)
    copy_with_new_metadata(reader, writer, {"general.sampling.temp": temperature}, [])
    args = ["-p", "Once upon a time", "-n", 30, "-q", "--seed", "7"]
    greedy = run_kt("run", path, *args).stdout
    assert greedy == run_kt("run", tiny, *args, "--temp", "0").stdout
    hot = run_kt("run", path, *args, "--temp", "1.5").stdout
    assert hot == run_kt("run", tiny, *args, "--temp", "1.5").stdout != greedy


def test_run_context_overflow(tiny, tmp_path):
    prompt = tmp_path / "long.txt"
    prompt.write_text("the cat sat on the mat. " * 200)
    line = failure("run", tiny, "--prompt-file", prompt, "--ctx", "64", status=TOO_LONG)
    assert "64" in line
    done = run_kt("run", tiny, "-p", "Once upon a time", "--ctx", "32", "--ignore-eos")
    assert "context of 32 tokens is full" in done.stderr


def test_perplexity(tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little dog. The dog liked to play. " * 40)
    done = run_kt("perplexity", tiny, "--file", text, "--ctx", "128")
    value = float(re.search(r"perplexity[^\d]*([\d.]+)", done.stdout).group(1))
    assert 1.0 < value < 1000.0


def test_chat_by_pipe(tiny, tmp_path):
    saved = tmp_path / "chat.json"
    script = f"Hello!\n/stats\n/save {saved}\n/sav\n/regen\n/clear\n/regen\n"
    done = run_kt("chat", tiny, "-n", "16", "--temp", "0", stdin=script)
    assert done.stdout.strip()
    assert "prompt eval count" in done.stderr and "context:" in done.stderr
    assert "did you mean /save?" in done.stderr
    assert "no reply to make again" in done.stderr
    messages = json.loads(saved.read_text())
    assert [m["role"] for m in messages] == ["user", "assistant"] and messages[0]["content"] == "Hello!"
    again = run_kt("chat", tiny, "-n", "16", "--temp", "0", "--load", saved, stdin="/regen\n")
    assert again.stdout.strip() == messages[1]["content"].strip()
    saved.write_text('[{"role": "boss", "content": "x"}]')
    assert "'boss'" in failure("chat", tiny, "--load", saved, stdin="", status=BAD_FILE)


@pytest.fixture
def terminal(tiny, tmp_path):
    pexpect = pytest.importorskip("pexpect")
    env = dict(os.environ, TERM="xterm", XDG_STATE_HOME=str(tmp_path), LC_ALL="C")
    child = pexpect.spawn(kt_path(), ["chat", str(tiny), "--temp", "0", "--ignore-eos", "--ctx", "1024"], env=env,
                          encoding="utf-8", timeout=60, dimensions=(40, 120))
    child.expect("/help for commands")
    child.expect(">>> ")
    yield child
    child.close(force=True)


def test_chat_on_a_terminal(terminal, tmp_path):
    terminal.sendline("Tell me a story.")
    terminal.expect(r"Tell me a story\.\r\n")
    terminal.expect(r"\w+ \w+ \w+")
    terminal.sendintr()  # stops the reply, not the program
    terminal.expect(r"\(stopped\)")
    terminal.expect(">>> ")
    terminal.sendline("/stats")
    terminal.expect("eval rate")
    terminal.expect(">>> ")
    terminal.send("half a line")
    terminal.sendintr()  # clears the line
    terminal.expect(">>> ")
    terminal.sendline('"""one')
    terminal.expect(r"\.\.\. ")
    terminal.sendline('zwei é"""')
    terminal.expect_exact('"""\r\n')  # Ctrl-C would discard a line that is not read yet
    terminal.expect(r"\w+")
    terminal.sendintr()
    terminal.expect(r"\(stopped\)")
    terminal.expect(">>> ")
    terminal.sendline(f"/save {tmp_path}/chat.json")
    terminal.expect("saved to")
    terminal.expect(">>> ")
    terminal.sendeof()
    terminal.expect_exact("\n")
    terminal.wait()
    assert terminal.exitstatus == 0
    messages = json.loads((tmp_path / "chat.json").read_text())
    assert [m["content"] for m in messages if m["role"] == "user"] == ["Tell me a story.", "one\nzwei é"]
    assert "Tell me a story." in (tmp_path / "ktransformers" / "chat_history").read_text().replace("\\040", " ")


def test_interrupt_ends_run(tiny):
    process = subprocess.Popen([kt_path(), "run", str(tiny), "-p", "Once", "--ignore-eos", "--ctx", "1024"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(8)
    process.send_signal(2)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "eval rate" in stderr
