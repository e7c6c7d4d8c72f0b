"""Many requests to `kt serve` on GPUs, with nothing but Python: random lengths, several at once, some left on the way.

    tools/gpu_soak.py KT [--requests 1000] [--small] [-- FLAGS OF KT SERVE]

The model has random weights and a vocabulary of bytes; it is placed by the planner, and with its routed experts on the
CPU. Checked: every reply that is waited for is complete; greedy replies that are asked for alone, with an empty cache,
are the same before and afterwards; a prompt that needs every page of the cache finds them; memory of the process and of
the GPU does not grow.
"""
import argparse
import concurrent.futures
import http.client
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading

from gpu_models import DATA, EXPERTS_ON_CPU

N_CLIENTS = 12
GROWTH = 32 << 20  # bytes that may be taken for good on the way
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of GGUF's values
STRING, ARRAY = 8, 9
REST_ON_GPU = r"""
- match: {name: '^(model|lm_head)'}
  replace: {class: default, kwargs: {generate_device: 'cuda:0', prefill_device: 'cuda:0'}}
"""


def write_config(path: pathlib.Path, small: bool) -> int:
    """A Qwen3-MoE with heads that GPUs have a kernel for; returns its context."""
    config = json.loads((DATA / "golden_configs" / "qwen3_moe.json").read_text())
    config |= {"head_dim": 64, "num_attention_heads": 4, "max_position_embeddings": 256 if small else 2048}
    if not small:
        config |= {"num_hidden_layers": 8, "hidden_size": 512}
    path.write_text(json.dumps(config))
    return config["max_position_embeddings"]


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def key_value(key: str, kind: int, value: bytes) -> bytes:
    return string(key.encode()) + struct.pack("<I", kind) + value


def array(kind: int, values: list) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def skip_value(data: bytes, at: int, kind: int) -> int:
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", data, at)[0]
    if kind != ARRAY:
        return at + SIZES[kind]
    of, n = struct.unpack_from("<IQ", data, at)
    at += 12
    for _ in range(n):
        at = skip_value(data, at, of)
    return at


def add_byte_vocabulary(path: pathlib.Path, n_vocab: int) -> None:
    """Gives a GGUF file the tokens <unk>, <s>, </s>, all bytes, and words without meaning."""
    data = path.read_bytes()
    version, n_tensors, n_keys = struct.unpack_from("<IQQ", data, 4)
    at, kept = 24, []
    for _ in range(n_keys):
        begin, n = at, struct.unpack_from("<Q", data, at)[0]
        at += 8 + n
        key = data[at - n:at]
        at = skip_value(data, at + 4, struct.unpack_from("<I", data, at)[0])
        if not key.startswith(b"tokenizer."):
            kept.append(data[begin:at])
    keys_end = at
    for _ in range(n_tensors):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 12
    words = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % b for b in range(256)]
    words += [b"w%d" % i for i in range(n_vocab - len(words))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (n_vocab - 259)
    added = [key_value("tokenizer.ggml.model", STRING, string(b"llama")),
             key_value("tokenizer.ggml.tokens", ARRAY, array(STRING, [string(w) for w in words])),
             key_value("tokenizer.ggml.scores", ARRAY, array(6, [struct.pack("<f", -i) for i in range(n_vocab)])),
             key_value("tokenizer.ggml.token_type", ARRAY, array(5, [struct.pack("<i", k) for k in kinds])),
             *(key_value(f"tokenizer.ggml.{name}_token_id", 4, struct.pack("<I", i))
               for i, name in enumerate(("unknown", "bos", "eos")))]
    head = data[:4] + struct.pack("<IQQ", version, n_tensors, len(kept) + len(added)) + b"".join(kept + added)
    head += data[keys_end:at]
    align = 32
    path.write_bytes(head + b"\0" * (-len(head) % align) + data[at + -at % align:])


class Server:
    def __init__(self, kt: str, model: pathlib.Path, flags: list):
        self.process = subprocess.Popen([kt, "serve", str(model), "--port", "0", *map(str, flags)],
                                        stderr=subprocess.PIPE, text=True)
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if found := re.match(r"serving .+ at https?://.*:(\d+)", line):
                self.port = int(found[1])
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                self.placed = [line.strip() for line in seen if line.startswith("cuda:")]
                return
        raise RuntimeError("kt serve ended: " + "".join(seen))

    def ask(self, body: dict, leave_after: int = -1) -> str | None:
        """The text of a reply; None when it was left after so many events of the stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(body | {"stream": leave_after >= 0}))
        reply = connection.getresponse()
        if leave_after >= 0:
            for _ in range(leave_after):
                reply.readline()
            connection.close()
            return None
        content = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {content.decode()}")
        answer = json.loads(content)
        if answer["usage"]["completion_tokens"] != body["max_tokens"]:
            raise RuntimeError(f"{answer['usage']} for max_tokens {body['max_tokens']}")
        return answer["choices"][0]["text"]

    def resident(self) -> int:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10

    def close(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=120)


def gpu_used() -> list:
    """Bytes in use on each GPU, when nvidia-smi is there to say so."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [int(n) << 20 for n in done.stdout.split()]


class Soak:
    def __init__(self, server: Server, context: int, n_vocab: int):
        self.server, self.context, self.n_vocab = server, context, n_vocab
        self.n_left = self.n_fillers = 0
        draw = random.Random(1)
        self.prompts = [[draw.randrange(3, n_vocab) for _ in range(draw.randrange(1, context // 3))] for _ in range(24)]

    def alone(self) -> list:
        """Greedy replies, each with nothing in the cache: before it comes a prompt that needs all of it."""
        replies = []
        for prompt in self.prompts[:6]:
            self.n_fillers += 1
            draw = random.Random(-self.n_fillers)
            filler = [draw.randrange(3, self.n_vocab) for _ in range(self.context - 1)]
            self.server.ask({"prompt": filler, "max_tokens": 1, "temperature": 0, "ignore_eos": True})
            replies.append(self.server.ask({"prompt": prompt, "max_tokens": min(24, self.context // 8), "temperature": 0,
                                            "ignore_eos": True}))
        return replies

    def one(self, number: int) -> bool:
        """A request; whether it was left on the way."""
        draw = random.Random(number)
        prompt = list(draw.choice(self.prompts))
        if draw.random() < 0.5:
            prompt[draw.randrange(len(prompt)):] = [draw.randrange(3, self.n_vocab) for _ in range(8)]
        body = {"prompt": prompt, "max_tokens": draw.randrange(1, self.context // 4), "ignore_eos": True,
                "temperature": draw.choice([0, 0.8]), "seed": number + 1}
        return self.server.ask(body, draw.randrange(8) if draw.random() < 0.25 else -1) is None

    def run(self, n: int, first: int) -> None:
        with concurrent.futures.ThreadPoolExecutor(N_CLIENTS) as pool:
            self.n_left += sum(pool.map(self.one, range(first, first + n)))


def soak(server: Server, context: int, n_vocab: int, n_requests: int) -> list:
    """What is wrong."""
    problems = []
    test = Soak(server, context, n_vocab)
    before = test.alone()
    warm = max(n_requests // 4, 1)
    test.run(warm, 0)
    memory, device = server.resident(), gpu_used()
    test.run(n_requests - warm, warm)
    if test.alone() != before:
        problems.append("greedy replies alone are others than before")
    grown = server.resident() - memory
    if grown > GROWTH:
        problems.append(f"the process grew by {grown >> 20} MiB")
    if any(now - then > GROWTH for now, then in zip(gpu_used(), device)):  # graphs of new shapes take a little
        problems.append(f"memory in use on the GPUs went from {device} to {gpu_used()}")
    print(f"  {n_requests} requests, {test.n_left} left on the way; grown by {grown / 2**20:.1f} MiB", flush=True)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kt")
    parser.add_argument("--requests", type=int, default=1000, help="of each placement")
    parser.add_argument("--small", action="store_true", help="a model for slow machines")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, more = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1:]
    n_problems = 0
    with tempfile.TemporaryDirectory() as folder:
        model, config, rules = (pathlib.Path(folder) / n for n in ("m.gguf", "config.json", "r.yaml"))
        context = write_config(config, args.small)
        n_vocab = json.loads(config.read_text())["vocab_size"]
        subprocess.run([args.kt, "quantize", "--dummy", config, model, "--type", "Q4_K_M"], check=True,
                       capture_output=True)
        add_byte_vocabulary(model, n_vocab)
        rules.write_text(EXPERTS_ON_CPU + REST_ON_GPU)
        for name, flags in {"planned": [], "experts on the CPU": ["--rules", rules]}.items():
            server = Server(args.kt, model, ["--ctx", context, "--max-batch-size", N_CLIENTS // 2, *flags, *more])
            print(f"{name}: {'; '.join(server.placed)}", flush=True)
            problems = [] if server.placed else ["no GPU is in use"]
            problems += soak(server, context, n_vocab, args.requests)
            status = server.close()
            if status != 0:
                problems.append(f"kt serve ended with {status}")
            for problem in problems:
                print(f"  {problem}")
            n_problems += len(problems)
    print("soak: all is well" if n_problems == 0 else f"soak: {n_problems} things are wrong")
    return 1 if n_problems else 0


if __name__ == "__main__":
    sys.exit(main())
