"""ktransformers.Engine on the bundled model: what it gives equals what `kt` gives, and whatever ends a request early
ends it within a step."""
import asyncio
import gc
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

import ktransformers
from ktransformers import errors
from support.hf_folder import write_hf_folder
from support.kt import run_kt
from support.models import tiny_moe_path

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = tiny_moe_path()
PROMPTS = ["Once upon a time", "The cat", "A dog and a bird"]
LONG = {"max_tokens": 900, "temperature": 0, "ignore_eos": True}  # seconds of work


@pytest.fixture(scope="module")
def engine():
    with ktransformers.Engine(MODEL, threads=1) as opened:  # one thread waits for no other when the machine is busy
        yield opened


def how_it_ended(request) -> tuple[str, bool]:
    """(why, whether before all tokens were generated), once a request that nobody reads any more has ended."""
    while not request.ended:
        request.wait()
    result = request.result()
    return result.finish_reason, len(result.tokens) < LONG["max_tokens"]


def test_generates_what_kt_generates(engine):
    result = engine.generate(PROMPTS[0], max_tokens=30, temperature=0)
    assert result.text == run_kt("run", MODEL, "-p", PROMPTS[0], "-n", 30, "--temp", 0, "-q").stdout.rstrip("\n")
    assert str(result) == result.text == engine.detokenize(result.tokens)
    assert (result.finish_reason, len(result.tokens), result.n_prompt) == ("length", 30, 5)
    assert len(result.logprobs) == 30 and max(result.logprobs) <= 0
    assert result.n_decoded == 29 and result.decode_rate > 0
    assert result.speed_report.count("\n") == 6 and "eval rate" in result.speed_report


def test_second_request_starts_from_the_cache(engine):
    first = engine.generate(PROMPTS[2], max_tokens=5, temperature=0, reuse_prefix=False)
    second = engine.generate(PROMPTS[2], max_tokens=5, temperature=0)
    assert first.n_cached == 0 and second.n_cached > 0 and second.tokens == first.tokens


def test_prompts_are_text_ids_arrays_or_messages(engine):
    ids = engine.tokenize(PROMPTS[0])
    results = engine.generate([PROMPTS[0], ids, np.array(ids)], max_tokens=8, temperature=0)
    assert len({result.text for result in results}) == 1
    messages = [{"role": "user", "content": "Tell me a story."}]
    rendered = engine.apply_chat_template(messages)
    as_ids = engine.tokenize(rendered, add_special=False, parse_special=True)
    chat = engine.generate(messages, max_tokens=8, temperature=0)
    assert chat.tokens == engine.generate(as_ids, max_tokens=8, temperature=0).tokens
    assert chat.n_prompt == len(as_ids) and "Tell me a story." in rendered
    assert len(engine.apply_chat_template(messages, add_generation_prompt=False)) < len(rendered)


def test_batch_equals_alone_and_so_do_streams(engine):
    alone = [engine.generate(prompt, max_tokens=20, temperature=0) for prompt in PROMPTS]
    together = engine.generate(PROMPTS, max_tokens=20, temperature=0)
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    stream = engine.stream(PROMPTS[0], max_tokens=20, temperature=0)
    assert "".join(stream) == alone[0].text
    assert stream.result.tokens == alone[0].tokens


def test_batch_of_more_than_the_cache_holds():
    with ktransformers.Engine(MODEL, threads=1, context=128) as engine:
        results = engine.generate(["The cat"] * 4, max_tokens=80, temperature=0, ignore_eos=True)
        assert {(r.finish_reason, len(r.tokens)) for r in results} == {("length", 80)}


def test_sampling_arguments_count(engine):
    drawn = [engine.generate("The", max_tokens=12, temperature=1.5, seed=seed).text for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = engine.generate("The", max_tokens=12, temperature=0)
    banned = engine.generate("The", max_tokens=12, temperature=0, logit_bias={greedy.tokens[0]: float("-inf")})
    assert banned.tokens[0] != greedy.tokens[0]
    stop = greedy.text[5:9]
    cut = engine.generate("The", max_tokens=12, temperature=0, stop=stop)
    assert cut.text == greedy.text[:greedy.text.index(stop)] and cut.finish_reason == "stop"
    assert engine.generate("The", max_tokens=0).tokens == []
    assert engine.generate([5] * 1020, ignore_eos=True).finish_reason == "context_full"


def test_logits_are_those_of_kt(engine, tmp_path):
    ids = engine.tokenize("Once upon a time there was a cat.")
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    run_kt("logits", "--model", MODEL, "--tokens-file", tmp_path / "ids.json", "--output", tmp_path / "l.npy")
    array = engine.logits(ids)
    assert memoryview(array).shape == (len(ids), engine.config.vocab_size)
    ours = np.from_dlpack(array)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, np.load(tmp_path / "l.npy"))
    by_decode = np.asarray(engine.logits(ids, by_decode=True))
    assert np.abs(by_decode - ours).max() < 0.1
    del array
    gc.collect()
    assert np.isfinite(ours).all()  # keeps the memory alive


def test_says_what_was_opened(engine):
    assert engine.config.architecture == "deepseek_v3" and engine.config.n_experts == 12
    assert engine.context == 1024 and engine.threads == 1 and engine.has_chat_template
    experts = engine.placement["model.layers.3.mlp.experts"]
    assert (experts.operator, experts.device) == ("KExpertsCPU", "cpu") and experts.bytes > 1e6
    assert sum(placed.bytes for placed in engine.placement.values()) == engine.weight_bytes
    assert "deepseek_v3" in repr(engine)


def test_rules_progress_and_trace(tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("- match:\n    name: 'mlp\\.experts$'\n  replace:\n"
                     "    class: ktransformers.operators.experts.KTransformersExperts\n"
                     "    kwargs: {generate_op: KExpertsCPU, backend: AMXInt8, generate_device: cpu}\n"
                     "- match:\n    name: 'no such module'\n  replace:\n    class: default\n")
    seen = []
    with pytest.warns(ktransformers.engine.RuleWarning, match="no such module|line 7|rules.yaml"):
        engine = ktransformers.Engine(MODEL, rules, trace=True, progress=lambda *now: seen.append(now))
    assert seen[-1][0] == seen[-1][1] > 1e6
    assert engine.placement["model.layers.2.mlp.experts"].format == "Q8_0"
    engine.generate("The", max_tokens=2)
    engine.write_trace(tmp_path / "trace.json")
    zones = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any(zone["name"] == "model.layers.3.mlp.experts" for zone in zones)
    with pytest.raises(errors.IoError):
        engine.write_trace(tmp_path)
    engine.save_expert_profile(tmp_path / "uses.json")
    uses = json.loads((tmp_path / "uses.json").read_text())["uses"]
    assert {sum(layer) % engine.config.n_active_experts for layer in uses.values()} == {0}
    assert sum(uses["model.layers.3.mlp.experts"]) > 0
    with pytest.raises(errors.IoError):
        engine.save_expert_profile(tmp_path)
    engine.close()


def test_options_of_gpus(build, monkeypatch):
    """With the stand-in of the GPU plug-in, which computes on host memory."""
    monkeypatch.setenv("KT_GPU_PLUGIN", str(build / "src" / "backend" / "gpu" / "libfake_gpu_whole.so"))
    texts = {}
    for graphs, defer, streamed in ((True, 0, "auto"), (False, 0, "off"), (True, 1, "on")):
        with ktransformers.Engine(MODEL, threads=2, context=64, gpu_graphs=graphs, defer_experts=defer,
                                  stream_experts=streamed, chunk_size=0) as one:
            assert {placed.device for placed in one.placement.values()} >= {"cuda:0"}
            texts[graphs, defer] = one.generate("The", max_tokens=4, temperature=0).text
    assert texts[True, 0] == texts[False, 0]


def test_which_gpus_and_how_much_of_them(build):
    plugin = build / "src" / "backend" / "gpu" / "libfake_gpu_whole.so"

    def devices(**options):
        with ktransformers.Engine(MODEL, threads=2, context=64, gpu_plugin=plugin, **options) as engine:
            return {placed.device for placed in engine.placement.values()}

    assert "cuda:0" in devices(gpus=1, gpu_memory="1GiB")
    assert devices(gpus=0) == {"cpu"}
    with pytest.raises(errors.UsageError, match="too little"):
        devices(gpu_memory="1MiB")
    with pytest.raises(errors.NotFoundError, match="nothing.so"):
        ktransformers.Engine(MODEL, gpu_plugin="nothing.so")


def test_a_template_of_the_package():
    with ktransformers.Engine(MODEL, ktransformers.RULES / "Moonlight-16B-A3B.yaml", emulate_gpus=1) as engine:
        assert engine.placement["model.layers.3.self_attn.o_proj"].device == "cuda:0"


def test_without_a_tokenizer(tmp_path):
    """A Hugging Face folder with weights only: ids in, ids out."""
    config = json.loads((ROOT / "models/tiny-moe/config.json").read_text())
    folder = write_hf_folder(tmp_path / "model", MODEL, config)
    with pytest.raises(errors.NotFoundError, match="tokenizer"):
        ktransformers.Engine(folder)
    with ktransformers.Engine(folder, need_text=False) as engine:
        result = engine.generate([0, 5, 9], max_tokens=4, temperature=0)
        assert len(result.tokens) == 4 and result.text == ""
        for call in (lambda: engine.generate("text"), lambda: engine.tokenize("text"),
                     lambda: engine.generate([1], stop="x"), lambda: engine.detokenize([1])):
            with pytest.raises((errors.UnsupportedError, errors.UsageError), match="tokenizer"):
                call()


def test_threads_share_an_engine(engine):
    wanted = {prompt: engine.generate(prompt, max_tokens=30, temperature=0).text for prompt in PROMPTS}
    got = {}

    def run(prompt):
        got[prompt] = engine.generate(prompt, max_tokens=30, temperature=0).text

    threads = [threading.Thread(target=run, args=[prompt]) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == wanted


def test_leaving_a_stream_ends_it(engine):
    stream = engine.stream("The", **LONG)
    request = stream._request
    for piece in stream:
        assert piece
        break
    del stream
    assert how_it_ended(request) == ("cancelled", True)
    stream = engine.stream("The", **LONG)
    next(stream)
    stream.close()
    "".join(stream)
    assert stream.result.finish_reason == "cancelled" and len(stream.result.tokens) < 900


async def collect(engine, prompt, n):
    stream = engine.astream(prompt, max_tokens=n, temperature=0)
    return "".join([piece async for piece in stream]), stream.result


def test_async_streams_run_together(engine):
    wanted = [engine.generate(prompt, max_tokens=25, temperature=0) for prompt in PROMPTS]

    async def main():
        return await asyncio.gather(*(collect(engine, prompt, 25) for prompt in PROMPTS))

    for (text, result), alone in zip(asyncio.run(main()), wanted, strict=True):
        assert text == result.text == alone.text and result.finish_reason == alone.finish_reason


def test_cancelling_a_task_ends_its_request(engine):
    async def main():
        first = asyncio.Event()
        streams = [engine.astream("The", **LONG), engine.astream("The", **LONG)]
        requests = [stream._request for stream in streams]

        async def endless():
            async for _ in streams.pop(0):
                first.set()

        task = asyncio.create_task(endless())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async for _ in streams.pop(0):
            break
        return requests

    for request in asyncio.run(main()):
        assert how_it_ended(request) == ("cancelled", True)


def test_async_errors_arrive(engine):
    with pytest.raises(errors.TooLongError):
        asyncio.run(collect(engine, [1] * 2000, 5))


def test_cancel_ends_all(engine):
    streams = [engine.stream(prompt, **LONG) for prompt in ("The", "A")]  # of which the second waits for the cache
    next(streams[0])
    engine.cancel()
    assert [how_it_ended(stream._request) for stream in streams] == [("cancelled", True)] * 2


CTRL_C = """
import os, signal, sys, threading, time
import ktransformers
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
engine = ktransformers.Engine(sys.argv[1], threads=1)
start = 0.0
def interrupt():
    global start
    start = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.2, interrupt).start()
try:
    if sys.argv[2] == "generate":
        engine.generate("The", ignore_eos=True)
        engine.generate(["The", "A"] * 50, ignore_eos=True, max_tokens=900)
    else:
        for prompt in range(100):
            for piece in engine.stream("The", ignore_eos=True):
                pass
except KeyboardInterrupt:
    late = time.monotonic() - start
    print("interrupted", late < 5.0, len(engine.generate("The", max_tokens=3).tokens))
"""


@pytest.mark.parametrize("how", ["generate", "stream"])
def test_ctrl_c(how, build):
    env = {**os.environ, "PYTHONPATH": str(build / "python")}
    done = subprocess.run([sys.executable, "-c", CTRL_C, MODEL, how], env=env, capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.stdout == "interrupted True 3\n", done.stdout + done.stderr


def test_ctrl_c_while_loading():
    def raise_interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ktransformers.Engine(MODEL, progress=raise_interrupt)


def test_closing_ends_those_who_wait():
    engine = ktransformers.Engine(MODEL, threads=1)
    threading.Timer(0.2, engine.close).start()
    with pytest.raises(errors.CancelledError, match="closed"):
        engine.generate(["The"] * 20, **LONG)
    engine.close()
    for call in (lambda: engine.generate("x"), lambda: engine.stream("x"), lambda: engine.logits([1]),
                 lambda: engine.tokenize("x"), lambda: engine.detokenize([1]), lambda: engine.write_trace("x"),
                 lambda: engine.apply_chat_template([])):
        with pytest.raises(errors.UsageError, match="closed"):
            call()


def test_interpreter_ends_with_a_running_request(build):
    code = ("import sys, ktransformers\nengine = ktransformers.Engine(sys.argv[1], threads=1)\n"
            "stream = engine.stream('The', ignore_eos=True)\nnext(stream)\nloop = [engine, stream]\n"
            "loop.append(loop)\nprint('done')")
    done = subprocess.run([sys.executable, "-c", code, MODEL], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(build / "python")}, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


BAD_RULES = "- match:\n    name: 'experts$'\n  replace:\n    class: ktransformers.operators.nothing.KNothing\n"


@pytest.mark.parametrize("arguments, error, text", [
    ({"model": "/nowhere/x.gguf"}, errors.NotFoundError, "/nowhere/x.gguf"),
    ({"act": "q3"}, errors.UsageError, "q3"),
    ({"kv": "q3"}, errors.UsageError, "q3"),
    ({"isa": "neon"}, errors.UsageError, "neon"),
    ({"context": -1}, errors.UsageError, "context: -1"),
    ({"context": 5000}, errors.UsageError, "5000"),
    ({"threads": 5000}, errors.UsageError, "threads: 5000"),
    ({"chunk_size": -1}, errors.UsageError, "chunk_size: -1 is not a number from 0 to 16384"),
    ({"stream_experts": "yes"}, errors.UsageError, "'yes' is not known; use auto, on or off"),
    ({"expert_cache": "yes"}, errors.UsageError, "'yes' is not known; use auto, fixed or off"),
    ({"gpu_graphs": "off"}, TypeError, "gpu_graphs: 'off' is not True or False"),
    ({"gpus": 9}, errors.UsageError, "gpus: 9 is not a number from 0 to 8"),
    ({"gpus": "all"}, TypeError, "gpus: 'all' is not a whole number"),
    ({"gpu_memory": "much"}, errors.UsageError, "gpu_memory: 'much'"),
    ({"gpu_memory": 2 ** 34}, TypeError, "gpu_memory"),
    ({"defer_experts": 65}, errors.UsageError, "defer_experts: 65 is not a number from 0 to 64"),
    ({"defer_experts": 1, "speculate": "prompt-lookup"}, errors.UsageError, "--defer-experts"),
    ({"emulate_gpus": -1}, errors.UsageError, "emulate_gpus"),
    ({"emulate_gpus": 1}, errors.UsageError, "rules"),
    ({"threads": "two"}, TypeError, "threads: 'two' is not a whole number"),
    ({"threads": 2 ** 40}, TypeError, "threads"),
    ({"act": None}, TypeError, "act: None is not text"),
    ({"plugins": ["/nowhere.so"], "rules": "bad.yaml"}, errors.NotFoundError, "nowhere.so"),
    ({"rules": "missing.yaml"}, errors.NotFoundError, "missing.yaml"),
    ({"rules": "bad.yaml"}, errors.BadFileError, "bad.yaml:4"),
    ({"model": 5}, TypeError, "int"),
])
def test_what_cannot_be_opened(arguments, error, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(BAD_RULES)
    with pytest.raises(error) as raised:
        ktransformers.Engine(**{"model": MODEL, **arguments})
    assert text in str(raised.value)


def test_truncated_model(tmp_path):
    (tmp_path / "cut.gguf").write_bytes(MODEL.read_bytes()[:2_000_000])
    with pytest.raises(errors.BadFileError) as raised:
        ktransformers.Engine(tmp_path / "cut.gguf")
    assert raised.value.path.endswith("cut.gguf")


@pytest.mark.parametrize("prompt, arguments, error, text", [
    ([1] * 1025, {}, errors.TooLongError, "1025 tokens, the context holds 1024"),
    ([99999], {}, errors.UsageError, "99999"),
    ([-1], {}, errors.UsageError, "-1"),
    ([2 ** 40], {}, errors.UsageError, str(2 ** 40)),
    ([], {}, errors.UsageError, "prompt: is empty"),
    (5, {}, TypeError, "not int"),
    (b"bytes", {}, TypeError, "not bytes"),
    ({"role": "user"}, {}, TypeError, "not dict"),
    ([[["x"]]], {}, TypeError, "batch"),
    ([{"role": "user", "content": object()}], {}, TypeError, "JSON"),
    ("x", {"temperature": -1}, errors.UsageError, "temperature"),
    ("x", {"top_p": 2.0}, errors.UsageError, "top_p"),
    ("x", {"temperature": "hot"}, TypeError, "temperature: 'hot' is not a number"),
    ("x", {"top_k": 1.5}, TypeError, "top_k: 1.5 is not a whole number"),
    ("x", {"seed": -1}, TypeError, "seed"),
    ("x", {"logit_bias": {99999: 1.0}}, errors.UsageError, "99999"),
    ("x", {"logit_bias": {"a": 1.0}}, TypeError, "logit_bias"),
    ("x", {"max_tokens": -2}, errors.UsageError, "max_tokens: -2"),
    ("x", {"stop": ""}, errors.UsageError, "stop"),
    ("x", {"stop": 5}, TypeError, "stop"),
    ("x", {"temprature": 0}, TypeError, "'temprature'; did you mean 'temperature'?"),
    ("x", {"max_tokens": "5"}, TypeError, "max_tokens"),
])
def test_what_cannot_be_generated(engine, prompt, arguments, error, text):
    with pytest.raises(error) as raised:
        engine.generate(prompt, **{"max_tokens": 1, **arguments})
    assert text in str(raised.value)
    assert len(engine.generate("The", max_tokens=1).tokens) == 1  # and it goes on


def test_a_batch_says_which_prompt_is_wrong(engine):
    with pytest.raises(errors.TooLongError) as raised:
        engine.generate(["The", [1] * 1025], max_tokens=5)
    assert raised.value.__notes__ == ["prompt 2 of 2"]
    with pytest.raises(errors.UsageError) as raised:
        engine.generate(["The", "A", []], max_tokens=5)
    assert raised.value.__notes__ == ["prompt 3 of 3"]


def test_logits_of_bad_tokens(engine):
    for tokens, error in (([], errors.UsageError), ([1] * 1025, errors.TooLongError), ([5000], errors.UsageError),
                          ("text", TypeError), ([0.5], TypeError), (3, TypeError)):
        with pytest.raises(error):
            engine.logits(tokens)


def test_every_error_code_has_its_class():
    names = {"usage", "not_found", "bad_file", "unsupported", "mismatch", "no_memory", "too_long", "io", "cancelled",
             "internal"}
    for name in names:
        error = errors.make(name, "message", "path")
        assert error.code == name and error.path == "path" and isinstance(error, ktransformers.errors.KtError)


def test_guessed_tokens_change_nothing_but_the_speed():
    prompt = "one two three four five six one two three four five six one two three"
    with ktransformers.Engine(MODEL) as plain, ktransformers.Engine(MODEL, speculate="prompt-lookup") as guessing:
        for seed in range(3):
            want = plain.generate(prompt, max_tokens=60, temperature=0.5, seed=seed + 1)
            got = guessing.generate(prompt, max_tokens=60, temperature=0.5, seed=seed + 1)
            assert got.tokens == want.tokens
            assert got.logprobs == want.logprobs
            assert want.n_drafted == 0
            assert got.n_drafted >= got.n_accepted
    with pytest.raises(errors.UsageError, match="prompt-lookup"):
        ktransformers.Engine(MODEL, speculate="often")
