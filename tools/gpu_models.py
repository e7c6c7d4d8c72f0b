"""The golden models (tests/test_goldens.py) on the GPUs of this machine, with nothing but Python.

    tools/gpu_models.py KT [--types BF16,Q8_0,Q4_K_M] [--models deepseek,kimi] [--jobs 4]

Each model is written by `kt quantize --dummy`, placed by the planner and with its routed experts on the CPU, where they
stay or are streamed, and run as a prompt and token by token. Printed is the mean over tokens of
KL(Transformers in float32 || kt), and how far the worst token's logits are from Transformers', as a share of how far
errors of up to twice bf16's rounding carry them there (tests/data/golden_noise.npz): far where a router's scores nearly
tie, else not. More than 1.25 of that in any token is a failure, and means above 2e-3 are counted; with a cache in E4M3 a
mean above 2e-2 is a failure. Latent attention with heads of the real size, which has kernels of its own, is compared
with the CPU: there a mean above 2e-3 is one. Several models run at a time, each in 4 GiB of the GPU.
"""
import argparse
import array
import ast
import concurrent.futures
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

DATA = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data"
NOISE = DATA / "golden_noise.npz"
NOISE_SHARE = 1.25  # of what 32 draws found
BOUND = 2e-3
E4M3_BOUND = 2e-2  # a cache in E4M3 rounds to 4 bits
CACHE_IN_E4M3 = ["--kv", "f8_e4m3"]
EXPERTS_ON_CPU = r"""
- match: {name: '^model\.layers\..*\.experts$'}
  replace:
    class: ktransformers.operators.experts.KTransformersExperts
    kwargs: {generate_device: cpu, generate_op: KExpertsCPU}
  recursive: false
- match: {name: '^model\.embed_tokens$'}
  replace: {class: default, kwargs: {generate_device: cpu, prefill_device: cpu}}
"""


def read_npy(data: bytes) -> tuple:
    """Shape and values of a .npy file."""
    size = int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10:10 + size].decode())
    values = array.array({"<f4": "f", "<i8": "q", "<i4": "i"}[header["descr"]])
    values.frombytes(data[10 + size:])
    return header["shape"], values


def log_softmax(row) -> list:
    top = max(row)
    log_sum = math.log(sum(math.exp(v - top) for v in row)) + top
    return [v - log_sum for v in row]


def distances(reference, logits) -> list:
    """As tests/support/measure.py's, without numpy."""
    (n_rows, n_cols), want = reference
    rows = [slice(r * n_cols, (r + 1) * n_cols) for r in range(n_rows)]
    return [math.dist(want[row], logits[1][row]) / math.hypot(*want[row]) for row in rows]


def token_kls(reference, logits) -> list:
    (n_rows, n_cols), want = reference
    shape, got = logits
    assert shape == (n_rows, n_cols), f"{shape} logits instead of {(n_rows, n_cols)}"
    kls = []
    for r in range(n_rows):
        p, q = (log_softmax(a[r * n_cols:(r + 1) * n_cols]) for a in (want, got))
        kls.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q)))
    return kls


class Runs:
    """Runs of one kt, one after the other, in a folder of their own."""

    def __init__(self, kt: str, folder: pathlib.Path, threads: int):
        self.kt = kt
        self.share = ["--gpu-memory", "4GiB", "-t", str(threads)]
        self.model, self.tokens, self.output, rules, self.config = (
            folder / n for n in ("m.gguf", "t.json", "l.npy", "r.yaml", "c.json"))
        rules.write_text(EXPERTS_ON_CPU)
        by_rules = ["--rules", rules, "--device", "cuda:0", "--stream-experts"]
        self.placements = {"planned": [], "planned, cache in E4M3": CACHE_IN_E4M3,
                           "experts on the CPU": [*by_rules, "off"], "experts streamed": [*by_rules, "on"]}
        self.lines, self.failures = [], 0
        self.turned = 0  # runs that are no failure, with a mean KL above the bound

    def fail(self, line: str) -> None:
        self.failures += 1
        self.lines.append(line)

    def write(self, config: pathlib.Path, file_type: str, tokens: list) -> None:
        subprocess.run([self.kt, "quantize", "--dummy", config, self.model, "--type", file_type, "--seed", "1"],
                       check=True, capture_output=True)
        self.tokens.write_text(json.dumps(tokens))

    def logits(self, *flags) -> subprocess.CompletedProcess:
        return subprocess.run([self.kt, "logits", "--model", self.model, "--tokens-file", self.tokens, "--output",
                               self.output, *self.share, *flags], capture_output=True, text=True)

    def compare(self, label: str, reference: tuple, allowed: float | list, *flags) -> None:
        """Allowed is a mean KL, or the noise of each token."""
        done = self.logits(*flags)
        if done.returncode != 0:
            self.fail(f"{label}: {done.stderr.strip()}")
            return
        logits = read_npy(self.output.read_bytes())
        kls = token_kls(reference, logits)
        mean = sum(kls) / len(kls)
        line = f"{label}: mean KL {mean:.1e}"
        if isinstance(allowed, float):
            good = mean <= allowed  # a NaN is not
        else:
            shares = [d / n for d, n in zip(distances(reference, logits), allowed, strict=True)]
            good = all(share <= NOISE_SHARE for share in shares)
            line += f", the worst token {max(shares):.2f} of the noise"
            self.turned += good and mean > BOUND
        if good:
            self.lines.append(line)
        else:
            self.fail(f"{line}  TOO FAR")

    def golden(self, config: pathlib.Path, file_types: list) -> None:
        golden, noises = zipfile.ZipFile(DATA / "goldens" / f"{config.stem}.npz"), zipfile.ZipFile(NOISE)
        for file_type in file_types:
            self.write(config, file_type, list(read_npy(golden.read("tokens.npy"))[1]))
            reference = read_npy(golden.read(f"{file_type}.npy"))
            _, noise = read_npy(noises.read(f"{config.stem}.{file_type}.npy"))
            for name, flags in self.placements.items():
                allowed = E4M3_BOUND if "f8_e4m3" in flags else list(noise)
                self.compare(f"{config.stem} {file_type}, {name}", reference, allowed, *flags)
                self.compare(f"{config.stem} {file_type}, {name}, token by token", reference, allowed, *flags,
                             "--decode")

    def latent_heads(self) -> None:
        """Latent attention with the heads of DeepSeek-V3, for which there are kernels, against the CPU; prompts so long
        that keys and values are made for a part of the heads at a time, and shorter ones in many ways."""
        small = json.loads((DATA / "golden_configs" / "deepseek_v3.json").read_text())
        self.config.write_text(json.dumps(small | {
            "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 4096}))
        walks = {"at once": [], "in chunks of 96": ["--chunk", "96"], "of 50": ["--chunk", "50"],
                 "of 7": ["--chunk", "7"], "token by token": ["--decode"],
                 "cache in E4M3": CACHE_IN_E4M3, "cache in E4M3, of 7": [*CACHE_IN_E4M3, "--chunk", "7"]}
        long_walks = {"at once": ["--chunk", "4096"], "in chunks of 512": []}
        for n, some in ((300, walks), (3500, long_walks)):
            self.write(self.config, "BF16", [(i * 37 + i // 200 + 11) % 200 for i in range(n)])
            done = self.logits("--gpus", "0", "--act", "f32", "--kv", "f32")
            if done.returncode != 0:
                self.fail(done.stderr.strip())
                continue
            reference = read_npy(self.output.read_bytes())
            for name, flags in some.items():
                self.compare(f"DeepSeek-V3's heads, {n} tokens, {name}", reference,
                             E4M3_BOUND if "f8_e4m3" in flags else BOUND, *flags)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kt")
    parser.add_argument("--types", default="BF16,Q8_0,Q4_K_M")
    parser.add_argument("--models", default="", help="only those whose names contain one of these, such as kimi,qwen3; "
                        "the heads of the real size are left out then")
    parser.add_argument("--jobs", type=int, default=4, help="models at a time (default: 4)")
    args = parser.parse_args()
    configs = [config for config in sorted((DATA / "golden_configs").glob("*.json"))
               if any(part in config.stem for part in args.models.split(","))]
    if not configs:
        parser.error(f"--models: no golden model is called {args.models}")
    jobs = [] if args.models else [lambda runs: runs.latent_heads()]  # the longest first
    jobs += [lambda runs, config=config: runs.golden(config, args.types.split(",")) for config in configs]

    def run(job) -> Runs:
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(args.kt, pathlib.Path(folder), max((os.cpu_count() or 1) // args.jobs, 1))
            job(runs)
        return runs

    failures = turned = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, job) for job in jobs]):
            print("\n".join(done.result().lines), flush=True)
            failures += done.result().failures
            turned += done.result().turned
    if turned:
        print(f"{turned} means of all tokens are above {BOUND}, where choices of experts turned that nearly tied")
    print(f"{failures} of the golden runs failed" if failures else "all golden models agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
