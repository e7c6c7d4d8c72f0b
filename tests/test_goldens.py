"""Golden logits: every architecture × file type against Hugging Face Transformers in float32.

The goldens (tests/data/goldens, made by tools/goldens/make_goldens.py) hold the logits of the dequantised
weights; the weights themselves are written again here by `kt quantize --dummy` from the same seed.
"""
import hashlib
import json
import pathlib

import numpy as np
import pytest

from gpu_models import E4M3_BOUND, NOISE, NOISE_SHARE
from support.hf_folder import write_hf_folder
from support.kt import run_kt
from support.measure import distances, mean_kl


DATA = pathlib.Path(__file__).parent / "data"
ARCHITECTURES = sorted(p.stem for p in (DATA / "golden_configs").glob("*.json"))
TYPES = ["F32", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"]
PROOF = ["--act", "f32", "--kv", "f32"]  # every path but 8-bit activations and a 16-bit cache


class Golden:
    def __init__(self, name: str, folder: pathlib.Path):
        self.name, self.folder = name, folder
        self.config_path = DATA / "golden_configs" / f"{name}.json"
        self.config = json.loads(self.config_path.read_text())
        self.arrays = np.load(DATA / "goldens" / f"{name}.npz")
        self.noise = np.load(NOISE)
        self.tokens = folder / f"{name}.tokens.json"
        self.tokens.write_text(json.dumps(self.arrays["tokens"].tolist()))

    def model(self, file_type: str) -> pathlib.Path:
        path = self.folder / f"{self.name}-{file_type}.gguf"
        if not path.exists():
            run_kt("quantize", "--dummy", self.config_path, path, "--type", file_type, "--seed", "1")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert digest == str(self.arrays[file_type + ".sha256"]), (
                f"{path.name} is not the file the goldens were made from: if the quantiser or the dummy "
                "weights changed on purpose, run tools/goldens/make_goldens.py")
        return path

    def logits(self, model: pathlib.Path, *flags) -> np.ndarray:
        out = self.folder / "logits.npy"
        run_kt("logits", "--model", model, "--tokens-file", self.tokens, "--output", out, *flags)
        return np.load(out)

    def check_rounded(self, file_type: str, logits: np.ndarray) -> None:
        """No token further from Transformers than roundings to bf16 may carry it (tools/gpu_models.py)."""
        shares = distances(self.arrays[file_type], logits) / self.noise[f"{self.name}.{file_type}"]
        assert shares.max() <= NOISE_SHARE, f"token {shares.argmax()}: {shares.max():.2f} of the noise"


@pytest.fixture(scope="module")
def goldens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goldens")
    return {name: Golden(name, folder) for name in ARCHITECTURES}


@pytest.mark.parametrize("file_type", TYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float_activations_equal_transformers(goldens, name, file_type):
    golden = goldens[name]
    logits = golden.logits(golden.model(file_type), *PROOF)
    reference = golden.arrays[file_type]
    assert logits.shape == reference.shape
    assert mean_kl(reference, logits) <= 1e-9
    assert distances(reference, logits).max() <= 1e-4  # says more where one token is all but certain, as in qwen2
    assert (logits.argmax(axis=-1) == reference.argmax(axis=-1)).all()


@pytest.fixture(scope="module")
def has_isa():
    cpu = run_kt("version").stdout.rpartition("cpu:")[2].split()
    return lambda isa: isa == "ref" or isa in cpu


@pytest.mark.parametrize("isa", ["ref", "avx2", "avx512", "amx"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_instruction_set_equals_transformers(goldens, name, isa, has_isa):
    """Logits and the likeliest token at every position, with float activations; with the defaults the same bounds as
    those of trained models (AMX takes bf16 for these 40 rows), and those of roundings."""
    if not has_isa(isa):
        pytest.skip(f"this CPU has no {isa}")
    golden = goldens[name]
    for file_type in ("F32", "Q4_K_M"):
        logits = golden.logits(golden.model(file_type), *PROOF, "--isa", isa)
        assert mean_kl(golden.arrays[file_type], logits) <= 1e-9
        assert distances(golden.arrays[file_type], logits).max() <= 1e-4
        assert (logits.argmax(axis=-1) == golden.arrays[file_type].argmax(axis=-1)).all()
    logits = golden.logits(golden.model("Q4_K_M"), "--isa", isa)
    assert mean_kl(golden.arrays["Q4_K_M"], logits) <= (2e-3 if isa == "amx" else 1e-5)
    golden.check_rounded("Q4_K_M", logits)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "llama"])
def test_first_choices_are_the_same_on_every_instruction_set(goldens, name, has_isa):
    golden = goldens[name]
    choices = set()
    for isa in filter(has_isa, ["ref", "avx2", "avx512"]):  # AMX rounds prompts to bf16
        choices.add(tuple(golden.logits(golden.model("Q4_K_M"), "--isa", isa).argmax(axis=-1)))
    assert len(choices) == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cache_in_e4m3_stays_near(goldens, name):
    golden = goldens[name]
    model = golden.model("F32")
    logits = golden.logits(model, "--act", "f32", "--kv", "f8_e4m3")
    assert 1e-9 < mean_kl(golden.arrays["F32"], logits) <= E4M3_BOUND
    np.testing.assert_array_equal(golden.logits(model, "--act", "f32", "--kv", "f8_e4m3", "--decode"), logits)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prefill_equals_chunked_prefill_equals_decode(goldens, name):
    golden = goldens[name]
    model = golden.model("Q4_K_M")
    whole = golden.logits(model)
    np.testing.assert_array_equal(golden.logits(model, "--chunk", "7"), whole)
    np.testing.assert_array_equal(golden.logits(model, "--decode"), whole)
    np.testing.assert_array_equal(golden.logits(model, "--threads", "1"), whole)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_safetensors_equal_gguf(goldens, name):
    golden = goldens[name]
    folder = write_hf_folder(golden.folder / f"{name}-hf", golden.model("F32"), golden.config)
    np.testing.assert_allclose(golden.logits(folder, *PROOF), golden.logits(golden.model("F32"), *PROOF),
                               rtol=0, atol=1e-5)
