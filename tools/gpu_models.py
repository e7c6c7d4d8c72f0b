"""The golden models (tests/test_goldens.py) on the GPUs of this machine, with nothing but Python.

    tools/gpu_models.py KT [--types BF16,Q8_0,Q4_K_M]

Each model is written by `kt quantize --dummy`, placed by the planner and with its routed experts on the CPU, and run
as a prompt and token by token. Printed is the mean over tokens of KL(Transformers in float32 || kt). Above 2e-3 counts
as a failure, but for the worst token: a near tie of a router may fall to the other side in bf16.
"""
import argparse
import array
import ast
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import zipfile

DATA = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data"
BOUND = 2e-3
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


def token_kls(reference, logits) -> list:
    (n_rows, n_cols), want = reference
    shape, got = logits
    assert shape == (n_rows, n_cols), f"{shape} logits instead of {(n_rows, n_cols)}"
    kls = []
    for r in range(n_rows):
        p, q = (log_softmax(a[r * n_cols:(r + 1) * n_cols]) for a in (want, got))
        kls.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q)))
    return kls


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kt")
    parser.add_argument("--types", default="BF16,Q8_0,Q4_K_M")
    args = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        model, tokens, output, rules = (pathlib.Path(folder) / n for n in ("m.gguf", "t.json", "l.npy", "r.yaml"))
        rules.write_text(EXPERTS_ON_CPU)
        for config in sorted((DATA / "golden_configs").glob("*.json")):
            golden = zipfile.ZipFile(DATA / "goldens" / f"{config.stem}.npz")
            tokens.write_text(json.dumps(list(read_npy(golden.read("tokens.npy"))[1])))
            placements = {"planned": [], "experts on the CPU": ["--rules", rules, "--device", "cuda:0"]}
            for file_type in args.types.split(","):
                reference = read_npy(golden.read(f"{file_type}.npy"))
                subprocess.run([args.kt, "quantize", "--dummy", config, model, "--type", file_type, "--seed", "1"],
                               check=True, capture_output=True)
                for name, flags in placements.items():
                    for walk in ([], ["--decode"]):
                        done = subprocess.run([args.kt, "logits", "--model", model, "--tokens-file", tokens, "--output",
                                               output, *flags, *walk], capture_output=True, text=True)
                        label = f"{config.stem} {file_type}, {name}{', token by token' if walk else ''}"
                        if done.returncode != 0:
                            failures += 1
                            print(f"{label}: {done.stderr.strip()}")
                            continue
                        kls = token_kls(reference, read_npy(output.read_bytes()))
                        rest = sum(sorted(kls)[:-1]) / (len(kls) - 1)
                        failures += rest > BOUND
                        print(f"{label}: mean KL {sum(kls) / len(kls):.1e}, without the worst token {rest:.1e}"
                              f"{'  TOO FAR' if rest > BOUND else ''}", flush=True)
    print(f"{failures} of the golden runs failed" if failures else "all golden models agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
