"""`kt serve --cache-disk`: prompts found again after other prompts, a restart and a kill."""
import re
import signal

import pytest
from openai import OpenAI
from support.models import smollm2_path
from support.server import Server

STORIES = [f"The {animal} went to the market and bought {n} things. " * 30
           for n, animal in enumerate(["fox", "owl", "bear", "hare", "wolf", "crane"], start=2)]


@pytest.fixture
def start(tmp_path):
    servers = []

    def start_server(*flags):
        servers.append(Server.start(smollm2_path(), "--ctx", "1024", "--cache-lens", "1024", "--cache-disk",
                                    tmp_path / "cache", *flags))
        return servers[-1]

    yield start_server
    for server in servers:
        if server.process.poll() is None:
            server.stop()


def ask(server, story):
    """The reply, how many tokens of the prompt were cached, and how many it has."""
    reply = OpenAI(base_url=server.url + "/v1", api_key="none").completions.create(
        model=server.model, prompt=story, max_tokens=8, temperature=0)
    return reply.choices[0].text, reply.usage.prompt_tokens_details.cached_tokens, reply.usage.prompt_tokens


def metric(server, name):
    text = server.request("GET", "/metrics")[2].decode()
    return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])


def whole_pages(n_prompt):
    return (n_prompt - 1) // 64 * 64


def test_what_left_memory_comes_back(start):
    server = start()
    first = [ask(server, story) for story in STORIES]
    text, cached, n_prompt = ask(server, STORIES[0])
    assert (text, cached) == (first[0][0], whole_pages(n_prompt))
    assert cached >= 256
    assert metric(server, "kt_cache_disk_read_total") == cached // 64
    assert server.stop() == 0


def test_steps_of_another_size_have_pages_of_their_own(start):
    server = start()
    ask(server, STORIES[0])
    assert server.stop() == 0
    assert ask(start("--chunk", "64"), STORIES[0])[1] == 0


def test_a_restart_finds_what_was_cached(start):
    server = start()
    want = ask(server, STORIES[0])[0]
    assert server.stop() == 0
    text, cached, n_prompt = ask(start(), STORIES[0])
    assert (text, cached) == (want, whole_pages(n_prompt))


def test_other_numbers_do_not_share_a_cache(start):
    server = start()
    ask(server, STORIES[0])
    assert server.stop() == 0
    assert ask(start("--kv", "f32"), STORIES[0])[1] == 0


def test_a_killed_server_leaves_a_usable_cache(start):
    server = start()
    want = [ask(server, story)[0] for story in STORIES]
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server = start()
    assert [ask(server, story)[0] for story in STORIES] == want
    assert metric(server, "kt_cache_disk_read_total") > 0
    assert metric(server, "kt_cache_disk_failed_total") == 0


def test_the_size_is_kept_to(start, tmp_path):
    server = start("--cache-disk-size", "8MiB")
    for story in STORIES:
        ask(server, story)
    assert server.stop() == 0
    files = list((tmp_path / "cache").glob("*.page"))
    assert files
    assert sum(f.stat().st_size for f in files) <= 8 << 20
