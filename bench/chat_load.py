"""Load on a chat server, and what its clients saw. Used by serve.py; needs nothing installed.

    prompts(…) → Load(port, tokens).closed_loop | open_loop → its replies → summary: tokens/s, percentiles, goodput
"""
import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

WORDS = ("river stone light seven garden machine winter paper ocean music yellow bridge market silver kitchen window "
         "forest engine travel shadow letter summer bottle candle").split()


def text(words: int, seed) -> str:
    chosen = random.Random(str(seed))
    return " ".join(chosen.choice(WORDS) for _ in range(words))


@dataclass
class Reply:
    """One streamed reply, in seconds since its request."""
    first: float
    between: list[float]
    tokens: int
    text: str
    timings: dict = field(default_factory=dict)

    def between_mean(self) -> float:
        return statistics.fmean(self.between) if self.between else 0.0


async def ask(port: int, messages: list, tokens: int) -> Reply:
    """Streams a reply of exactly `tokens` tokens. Raises RuntimeError when the server refuses."""
    body = json.dumps({"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True, "model": "",
                       "ignore_eos": True, "stream_options": {"include_usage": True}}).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise RuntimeError((head + await reader.read(2000)).decode())
        times, pieces, usage, timings = [], [], {}, {}
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            usage, timings = chunk.get("usage") or usage, chunk.get("timings") or timings
            content = chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
            if content:
                times.append(time.perf_counter() - start)
                pieces.append(content)
    finally:
        writer.close()
    if not times:
        raise RuntimeError("a reply without text")
    return Reply(times[0], [b - a for a, b in zip(times, times[1:])], usage["completion_tokens"], "".join(pieces),
                 timings)


def prompts(count: int, words: int, shared: int, seed) -> list[list[dict]]:
    """Conversations of one message of so many words, `shared` percent of which all of them begin with."""
    n_shared = words * shared // 100
    begin = text(n_shared, ("shared", seed))
    return [[{"role": "user", "content": f"{begin} {text(words - n_shared, (seed, i))}".strip()}]
            for i in range(count)]


class Load:
    """Runs requests and keeps what came of them."""

    def __init__(self, port: int, tokens: int):
        self.port, self.tokens = port, tokens
        self.replies: list[Reply] = []
        self.errors = 0
        self.seconds = 0.0

    async def one(self, messages: list) -> None:
        try:
            self.replies.append(await ask(self.port, messages, self.tokens))
        except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
            self.errors += 1
            print(f"a request failed: {str(error)[:300]}", file=sys.stderr)

    async def closed_loop(self, conversations: list, streams: int) -> "Load":
        """So many clients, each of which asks again as soon as it has its reply."""
        waiting = iter(conversations)

        async def client() -> None:
            for messages in waiting:
                await self.one(messages)
        start = time.perf_counter()
        await asyncio.gather(*[client() for _ in range(streams)])
        self.seconds = time.perf_counter() - start
        return self

    async def open_loop(self, conversations: list, rate: float, seed) -> "Load":
        """Requests come at random times, `rate` a second on average, however many are in flight (Poisson)."""
        gaps = random.Random(str(seed))
        start = time.perf_counter()
        tasks = []
        for messages in conversations:
            tasks.append(asyncio.create_task(self.one(messages)))
            await asyncio.sleep(gaps.expovariate(rate))
        await asyncio.gather(*tasks)
        self.seconds = time.perf_counter() - start
        return self

    def summary(self, slo_first: float, slo_between: float) -> dict:
        """Milliseconds and rates. Goodput counts the requests whose first token and mean time between tokens are
        within the limits (seconds)."""
        good = [r for r in self.replies if r.first <= slo_first and r.between_mean() <= slo_between]
        out = {"tokens/s": sum(r.tokens for r in self.replies) / self.seconds,
               "requests/s": len(self.replies) / self.seconds, "goodput, requests/s": len(good) / self.seconds}
        first = [r.first for r in self.replies]
        between = [b for r in self.replies for b in r.between]
        for name, values in (("first token", first), ("between tokens", between)):
            out |= {f"{name}, p{p} ms": percentile(values, p) * 1e3 for p in (50, 95, 99)}
        return out | {"outside steps, %": 100 * self.outside_steps(), "errors": self.errors}

    def outside_steps(self) -> float:
        """Share of the time between tokens that the server was not computing a step."""
        between = sum(sum(r.between) for r in self.replies)
        steps = sum(r.timings.get("predicted_ms", 0.0) for r in self.replies) / 1e3
        return max(0.0, 1 - steps / between) if between else 0.0


def percentile(values: list[float], p: int) -> float:
    """Nearest rank: the smallest value that p percent are not above."""
    if not values:
        return float("nan")
    return sorted(values)[max(0, -(-len(values) * p // 100) - 1)]


async def second_turn(port: int, words: int, seed) -> dict:
    """The first token of a second turn on a long conversation, beside that of its new tokens alone."""
    long = [{"role": "user", "content": text(words, ("long", seed))}]
    n = 8  # the first of them may be a mark of the template, which has no text
    begun = await ask(port, long, n)
    turn = await ask(port, [*long, {"role": "assistant", "content": begun.text},
                            {"role": "user", "content": text(60, ("turn", seed))}], n)
    alone = await ask(port, [{"role": "user", "content": text(60, ("alone", seed))}], n)
    return {"first token, ms": turn.first * 1e3, "cached tokens": turn.timings.get("cache_n", 0),
            "new tokens": turn.timings.get("prompt_n", 0), "prefill of them, ms": turn.timings.get("prompt_ms", 0.0),
            "first token of a prompt of their size alone, ms": alone.first * 1e3,
            "tokens of that": alone.timings.get("prompt_n", 0)}
