"""The pure parts of the peer comparison in bench/peers: decoders against the gguf package, routing, the help text."""
import pathlib
import subprocess
import sys

import gguf
import numpy as np
import pytest

PEERS = pathlib.Path(__file__).resolve().parents[1] / "bench" / "peers"
sys.path.insert(0, str(PEERS))
import peer_common  # noqa: E402


@pytest.mark.parametrize("name, kind, scales", [
    ("q4_k", gguf.GGMLQuantizationType.Q4_K, [0, 2]), ("q8_0", gguf.GGMLQuantizationType.Q8_0, [0]),
    ("q4_0", gguf.GGMLQuantizationType.Q4_0, [0]), ("bf16", gguf.GGMLQuantizationType.BF16, [])])
def test_decoders(name, kind, scales):
    rng = np.random.default_rng(1)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    columns = 512
    rows = rng.integers(0, 256, (5, columns // block, size), dtype=np.uint8)
    for at in scales:
        rows[:, :, at:at + 2] = rng.random((5, columns // block, 1), np.float32).astype(np.float16).view(np.uint8)
    if name == "bf16":
        rows = peer_common.bf16(rng.standard_normal((5, columns), np.float32)).view(np.uint8)
    rows = rows.reshape(5, -1)
    want = gguf.quants.dequantize(rows, kind)
    np.testing.assert_allclose(peer_common.dequantise(name, rows, columns), want.reshape(5, columns), rtol=1e-6)


def test_routing():
    layer = peer_common.Layer("64 96 12 4 2 1 q4_k".split())
    routing = peer_common.Routing(layer)
    for _ in range(3):
        met = set()
        for _ in range(6):
            index, ids = routing.next(1)
            met |= {(index, int(i)) for i in ids[0]}
        assert len(met) == 24
    ids = routing.next(50)[1]
    assert all(len(set(row)) == 4 for row in ids.tolist())


def test_exact_result_of_one_expert():
    layer = peer_common.Layer("4 3 2 1 1 1 bf16".split())
    weights = peer_common.Weights(layer, peer_common.bf16, lambda rows, n: peer_common.from_bf16(rows))
    x = np.array([1.0, -2.0, 0.5, 3.0])

    def matrix(name: str) -> np.ndarray:
        return peer_common.from_bf16(weights.pool[layer.dims(name)[1]])[weights.choice(0, 1, name)].astype(float)

    gate = matrix("gate") @ x
    want = 0.5 * matrix("down") @ (gate / (1 + np.exp(-gate)) * (matrix("up") @ x))
    np.testing.assert_allclose(weights.exact(x, np.array([1]), np.array([0.5])), want, rtol=1e-12)


def test_a_folder_without_ggml_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="libggml-cpu.so"):
        peer_common.load_ggml(tmp_path)


def drive(program: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, PEERS / program, *flags], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program, flag", [("moe_layer.py", "--prefix"), ("llama_cpp.py", "--llama-bench")])
def test_help_needs_nothing_installed(program, flag):
    done = drive(program, "--help")
    assert done.returncode == 0 and flag in done.stdout


@pytest.mark.parametrize("flags, words", [
    (["--n", "1,x"], ["--n", "'x'"]), (["--n", "0"], ["--n", "'0'"]), (["--n", "9000"], ["9000", "8192"]),
    (["--rounds", "0"], ["--rounds", "'0'"]), (["--threads", "-1"], ["--threads"]), (["--peers", "vllm"], ["vllm"]),
    (["--kt", "no/such/kt"], ["no/such/kt", "./dev build"])])
def test_wrong_flags_are_refused_before_anything_is_fetched(flags, words, tmp_path):
    done = drive("moe_layer.py", *flags, "--cache", str(tmp_path / "cache"))
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("flags, word", [(["--gpu"], "--llama-bench"), (["--experts-on-cpu"], "--gpu")])
def test_gpus_need_a_llama_bench_that_has_them(flags, word):
    done = drive("llama_cpp.py", "--kt", sys.executable, *flags)
    assert done.returncode == 2 and word in done.stderr, done.stderr
