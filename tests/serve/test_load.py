"""The load generator bench/serve.py: its arithmetic, and a small load on a real server."""
import math
import pathlib
import re
import subprocess
import sys

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import chat_load  # noqa: E402
import serve  # noqa: E402


@pytest.mark.parametrize("p, wanted", [(50, 50), (95, 95), (99, 99), (100, 100), (1, 1)])
def test_percentiles_are_values_that_occurred(p, wanted):
    assert chat_load.percentile(list(range(100, 0, -1)), p) == wanted


def test_percentiles_of_few_and_none():
    assert chat_load.percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert chat_load.percentile([7.0], 99) == 7.0
    assert math.isnan(chat_load.percentile([], 50))


@pytest.mark.parametrize("shared", [0, 50, 90])
def test_prompts_share_their_beginning(shared):
    texts = [messages[0]["content"].split() for messages in chat_load.prompts(8, 100, shared, "seed")]
    assert {len(words) for words in texts} == {100}
    assert len({tuple(words[:shared]) for words in texts}) == 1
    assert len({tuple(words[shared:shared + 10]) for words in texts}) == 8
    assert texts != [m[0]["content"].split() for m in chat_load.prompts(8, 100, shared, "other seed")]


def test_summary():
    load = chat_load.Load(0, 3)
    load.seconds = 2.0
    load.replies = [chat_load.Reply(0.1, [0.01, 0.03], 3, "a"), chat_load.Reply(0.1, [0.01, 0.05], 3, "b"),
                    chat_load.Reply(0.4, [0.01, 0.01], 3, "c", {"predicted_ms": 55.0})]
    summary = load.summary(slo_first=0.2, slo_between=0.02)
    assert next(iter(summary)) == "tokens/s" and summary["tokens/s"] == 4.5
    assert (summary["requests/s"], summary["goodput, requests/s"]) == (1.5, 0.5)
    assert (summary["first token, p50 ms"], summary["first token, p95 ms"]) == (100, 400)
    assert summary["between tokens, p99 ms"] == pytest.approx(50)
    assert summary["outside steps, %"] == pytest.approx(100 * (1 - 55 / 120))


def test_rounds_become_one():
    loads = [{"tokens/s": 1, "errors": 5}, {"tokens/s": 9, "errors": 4}, {"tokens/s": 3, "errors": 0}]
    assert serve.chosen(loads, best=False) == {"tokens/s": 3, "errors": 4}
    assert serve.chosen(loads, best=True) == loads[1]
    assert serve.chosen([{"first token, ms": 2}, {"first token, ms": 1}], best=True) == {"first token, ms": 1}


def test_a_server_under_load(server):
    done = subprocess.run(
        [sys.executable, BENCH / "serve.py", "--url", server.url, "--requests", "4", "--streams", "2", "--tokens", "4",
         "--words", "40", "--shared", "90", "--rate", "50", "--turn-words", "200"],
        capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"^\| ([^|*]+) \| ([\d.]+) \|$", done.stdout, re.MULTILINE))
    assert float(rows["tokens/s"]) > 0 and float(rows["first token, ms"]) > 0
    assert float(rows["cached tokens"]) > 200
    assert done.stdout.count("| errors | 0.0 |") == 2


def test_other_machines_are_not_loaded():
    done = subprocess.run([sys.executable, BENCH / "serve.py", "--url", "http://example.com"], capture_output=True,
                          text=True, check=False)
    assert done.returncode != 0 and "only a server on this machine" in done.stderr
