"""The native engine: opens a GGUF file or a Hugging Face folder, places it, and generates.

    with ktransformers.Engine("model.gguf") as engine:
        print(engine.generate("Once upon a time", max_tokens=40).text)

One thread of the engine's own runs all requests together; every method may be called from any thread.
"""
from __future__ import annotations

import asyncio
import atexit
import difflib
import json
import operator
import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, overload

from ktransformers import _native
from ktransformers.errors import UsageError
from ktransformers.planning import Plan, plan, set_options

if TYPE_CHECKING:
    from typing import Self, Unpack

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]
"""Text, token ids, or the messages of a chat ({"role": …, "content": …}), which the model's template renders."""

_POLL = 0.05  # seconds between two looks for Ctrl-C


class Sampling(TypedDict, total=False):
    """Keyword arguments of generate, stream and astream. Not given: what the makers of the model advise, else the
    default named here. Out of range: UsageError."""
    max_tokens: int | None
    """At most so many are generated; None: until the model ends or the context is full. Requests run together only
    as far as the cache holds prompt and max_tokens of all of them, so give it with batches."""
    temperature: float
    """0.8; 0 takes the likeliest token always."""
    top_k: int
    """40; keep the k likeliest, 0: off."""
    top_p: float
    """0.95; keep the likeliest that sum to p, 1: off."""
    min_p: float
    """0.05; drop what is less likely than p times the likeliest, 0: off."""
    typical_p: float
    """1 (off); locally typical sampling."""
    repetition_penalty: float
    """1 (off); divides the logits of repeated tokens."""
    frequency_penalty: float
    """0; subtracted for each occurrence."""
    presence_penalty: float
    """0; subtracted once for each token seen."""
    repeat_last_n: int
    """64; tokens that the penalties look back, -1: all."""
    logit_bias: Mapping[int, float]
    """Added to the logits of these tokens."""
    seed: int
    """0: a new one each time; the same seed gives the same text."""
    stop: str | Sequence[str]
    """Ends the text before any of these strings."""
    ignore_eos: bool
    """Goes on after the model's end token."""
    reuse_prefix: bool
    """True; begin from what an earlier request left in the cache, where the prompts agree."""


_NOT_SAMPLING = ("max_tokens", "stop", "ignore_eos", "reuse_prefix")


class RuleWarning(UserWarning):
    """A rule file is valid and yet does not do what it seems to."""


@dataclass(frozen=True)
class Result:
    """What a finished request did. Times are seconds of wall clock."""
    text: str
    """Generated text without the stop string; empty without a tokenizer."""
    tokens: list[int]
    """Generated ids, without the end token."""
    logprobs: list[float] = field(repr=False)
    """Of each token, under softmax of the logits before sampling changed them."""
    finish_reason: str
    """"stop" (end token or stop string), "length" (max_tokens), "context_full" or "cancelled"."""
    n_prompt: int
    n_cached: int
    """Prompt tokens taken from the cache."""
    n_decoded: int
    """Tokens out of steps after the prompt; the first token comes from the prompt's last row."""
    n_drafted: int
    """Tokens guessed from the text (Engine's speculate) and computed."""
    n_accepted: int
    """Guessed tokens that came."""
    prefill_seconds: float
    decode_seconds: float
    speed_report: str = field(repr=False)
    """The six lines of the original program."""

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second, cached ones left out."""
        return (self.n_prompt - self.n_cached) / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the prompt."""
        return self.n_decoded / self.decode_seconds if self.decode_seconds else 0.0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Config:
    """What the model is. 0 or empty: it has no such thing."""
    architecture: str
    """Hugging Face's model_type."""
    name: str
    n_layers: int
    d_model: int
    d_ff: int
    """Width of a dense MLP."""
    n_heads: int
    n_kv_heads: int
    head_dim: int
    kv_lora_rank: int
    """Of multi-head latent attention."""
    vocab_size: int
    max_context: int
    sliding_window: int
    n_experts: int
    """Routed experts of a layer."""
    n_active_experts: int
    """Of them for each token."""
    d_ff_expert: int
    bos_token: int
    """-1: none."""
    eos_tokens: list[int]


@dataclass(frozen=True)
class Placed:
    """What a module became."""
    operator: str
    device: str
    format: str
    bytes: int
    reason: str


class _Request:
    """A request's ticket, and what has been read from it."""

    def __init__(self, ticket: _native.Ticket):
        self.ticket = ticket
        self.tokens: list[tuple[int, float]] = []
        self.ended = False

    def take(self) -> str:
        text, tokens, self.ended = self.ticket.take()
        self.tokens += tokens
        return text

    def wait(self) -> str:
        """The next text. Between two waits Python sees Ctrl-C; whatever ends the wait ends the request."""
        try:
            while not self.ticket.wait(_POLL):
                pass
        except BaseException:
            self.ticket.cancel()
            raise
        return self.take()

    def result(self) -> Result:
        outcome: dict[str, Any] = self.ticket.result()
        return Result(**outcome, logprobs=[logprob for _, logprob in self.tokens])


class TextStream(Iterator[str]):
    """The text of one request, piece by piece (whole characters). Leaving the loop, close() or dropping the object
    ends the request; after the last piece `result` holds its outcome."""

    def __init__(self, request: _Request):
        self._request = request
        self.result: Result | None = None
        """The outcome, once the text has ended."""

    def __next__(self) -> str:
        while self.result is None:
            text = "" if self._request.ended else self._request.wait()
            if text:
                return text
            if self._request.ended:
                self.result = self._request.result()
        raise StopIteration

    def close(self) -> None:
        """Ends the request at the next step."""
        self._request.ticket.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncTextStream:
    """TextStream for asyncio: `async for piece in stream`. Cancelling the task ends the request."""

    def __init__(self, request: _Request):
        self._request = request
        self.result: Result | None = None
        """The outcome, once the text has ended."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while self.result is None:
            text = self._request.take()
            if text:
                return text
            if self._request.ended:
                self.result = self._request.result()
            else:
                await self._news()
        raise StopAsyncIteration

    async def _news(self) -> None:
        loop = asyncio.get_running_loop()
        news: asyncio.Future[None] = loop.create_future()
        descriptor = self._request.ticket.fileno()

        def arrived() -> None:
            if not news.done():
                news.set_result(None)

        loop.add_reader(descriptor, arrived)
        try:
            await news
        except BaseException:
            self.close()
            raise
        finally:
            loop.remove_reader(descriptor)

    def close(self) -> None:
        """Ends the request at the next step."""
        self._request.ticket.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _is_one(prompt: object) -> bool:
    """Whether this is one prompt, not a batch."""
    if isinstance(prompt, str):
        return True
    if isinstance(prompt, (bytes, bytearray, Mapping)) or not hasattr(prompt, "__len__"):
        raise TypeError(f"a prompt is text, token ids or messages, not {type(prompt).__name__}")
    if len(prompt) == 0:
        raise UsageError("is empty; at least one token is needed", "prompt")
    first = prompt[0]  # type: ignore[index]
    return isinstance(first, Mapping) or _is_id(first)


def _is_id(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _stops(stop: object) -> list[str]:
    given = stop if isinstance(stop, (list, tuple)) else [stop]
    stops = [one for one in given if isinstance(one, str)]
    if len(stops) != len(given):
        raise TypeError(f"stop: {stop!r} is not text or a list of text")
    return stops


def token_ids(tokens: object) -> list[int]:
    """A list of ids from a list, a NumPy array or a tensor with one axis."""
    if hasattr(tokens, "tolist"):
        tokens = tokens.tolist()
    try:
        ids = [operator.index(token) for token in tokens]  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError("token ids are a sequence of whole numbers") from None
    for token in ids:
        if not 0 <= token < 2 ** 31:
            raise UsageError(f"token id {token} is outside every vocabulary", "prompt")
    return ids


_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter goes, or the threads would run on into its end."""
    for engine in list(_open_engines):
        engine.close()


class Engine:
    """A model, ready to generate.

    model: a .gguf file, a folder with safetensors or GGUF shards, or a name that `kt list` knows.
    rules: a YAML rule file that says what runs where; None: the planner decides.
    context: tokens of the cache, which all running requests share; 0: the model's, at most 8192, and what fits.
    threads: 0: the physical cores that this process may use.
    act: activations of quantised products: "q8" (fastest), "q16" (15 bits) or "f32".
    kv: type of the cache: "f32", "f16", "bf16", "f8_e4m3" or "q8_0". GPUs keep bf16, or f8_e4m3
        where it is asked for.
    isa: "ref", "avx2", "avx512" or "amx"; empty: the best of this CPU.
    chunk_size: prompt tokens of a step; 0: 512, or 2048 where experts are streamed.
    stream_experts: whether weights of experts in host memory go to a GPU for prompts: "auto" (where that is faster),
        "on" or "off".
    expert_cache: where not all experts fit the GPUs, whether these hold some of each layer: "auto" (those used most),
        "fixed" (always the same) or "off" (whole layers).
    expert_profile: a file that save_expert_profile wrote, or an importance matrix (GGUF): the experts on GPUs at first
        are those that it says are used most.
    gpus: use so many GPUs at most; None: all that there are, 0: none.
    gpu_memory: of each GPU's memory at most, e.g. "24GiB"; empty: what is free.
    gpu_plugin: the GPU plug-in; None: what KT_GPU_PLUGIN names, or libkt_cuda.so beside the program `kt`.
    gpu_graphs: False launches steps on GPUs kernel by kernel instead of replaying them.
    defer_experts: so many of a token's experts, if they are on the CPU, come a layer later while decoding, so that
        GPU and CPU work at once; changes values.
    speculate: "prompt-lookup" guesses tokens from the text so far where that is faster; the output stays the same.
    plugins: shared objects with operators that the rules may name.
    device: of modules that no rule matches; None: "cpu".
    emulate_gpus, emulate_nodes: accept rules for so many GPUs, make so many NUMA nodes, on the CPU.
    trace: record what every module does, for write_trace.
    progress: called while loading with bytes done, bytes in all and bytes per second.
    need_text: False opens a model without its tokenizer; it takes token ids only.

    Raises the classes of ktransformers.errors: NotFoundError, BadFileError (rules: with the line), UnsupportedError,
    MismatchError, NoMemoryError (before weights are read, with a table of what is needed), UsageError. Warns with
    RuleWarning.
    """

    def __init__(self, model: str | os.PathLike[str], rules: str | os.PathLike[str] | None = None, *,
                 context: int = 0, threads: int = 0, act: str = "q16", kv: str = "f16", isa: str = "",
                 chunk_size: int = 0, stream_experts: str = "auto", expert_cache: str = "auto",
                 expert_profile: str | os.PathLike[str] | None = None,
                 gpus: int | None = None, gpu_memory: str = "", gpu_plugin: str | os.PathLike[str] | None = None,
                 gpu_graphs: bool = True, defer_experts: int = 0, speculate: str = "none",
                 plugins: Sequence[str | os.PathLike[str]] = (), device: str | None = None,
                 emulate_gpus: int = 0, emulate_nodes: int = 0, trace: bool = False,
                 progress: Callable[[int, int, float], object] | None = None, need_text: bool = True):
        self._run_options: dict[str, Any] = {
            "rules": os.fspath(rules or ""), "context": context, "threads": threads, "act": act, "kv": kv,
            "chunk_size": chunk_size, "stream_experts": stream_experts, "expert_cache": expert_cache,
            "plugins": [os.fspath(path) for path in plugins], "device": device or ""}
        gpu_options: dict[str, Any] = {} if gpus is None else {"gpus": gpus}
        gpu_options |= {"gpu_memory": gpu_memory, "gpu_plugin": os.fspath(gpu_plugin or "")}
        options = _native.Options()
        set_options(options, {**self._run_options, "model": os.fspath(model), "isa": isa, "trace": trace,
                              "speculate": speculate, "gpu_graphs": gpu_graphs, "defer_experts": defer_experts,
                              "expert_profile": os.fspath(expert_profile or ""), **gpu_options,
                              "emulate_gpus": emulate_gpus, "emulate_nodes": emulate_nodes,
                              "need_text": need_text})
        self._worker = _native.Worker(options)
        try:
            self._wait_open(progress)
            about: dict[str, Any] = self._worker.describe()
        except BaseException:
            self._worker.close()
            raise
        _open_engines.add(self)
        self.path: str = about["path"]
        """Of the model."""
        self.config = Config(**about["config"])
        self.context: int = about["context"]
        """Tokens of the cache."""
        self.threads: int = about["n_threads"]
        self.load_seconds: float = about["load_seconds"]
        self.weight_bytes: int = about["weight_bytes"]
        """Memory that the weights take."""
        self.cache_bytes: int = about["cache_bytes"]
        self.has_chat_template: bool = about["has_chat_template"]
        # The CPU stands in for GPUs: a plan is for no real ones.
        self._gpu_options = {"gpus": 0} if emulate_gpus else gpu_options | {"gpu_bytes": about["gpu_bytes"]}
        self.placement: dict[str, Placed] = {path: Placed(*rest) for path, *rest in about["placement"]}
        """What every module with weights became, by its path."""

    def _wait_open(self, progress: Callable[[int, int, float], object] | None) -> None:
        last = None
        opened = False
        while not opened:
            opened = self._worker.wait_open(_POLL)
            now = self._worker.loading()
            if progress is not None and now != last and now[1]:
                progress(*now)
            last = now
        for warning in self._worker.warnings():
            warnings.warn(warning.rstrip(), RuleWarning, stacklevel=3)

    @overload
    def generate(  # type: ignore[overload-overlap]  # text is a sequence of texts, too
        self, prompt: Prompt, **sampling: Unpack[Sampling]) -> Result: ...

    @overload
    def generate(self, prompt: Sequence[Prompt], **sampling: Unpack[Sampling]) -> list[Result]: ...

    def generate(self, prompt: Prompt | Sequence[Prompt], **sampling: Unpack[Sampling]) -> Result | list[Result]:
        """Completes a prompt: text, token ids, or the messages of a chat. A list of prompts is run together and gives
        a list of results in its order. See Sampling for the keyword arguments.

        Raises TooLongError (the prompt leaves no room in the context), UsageError, UnsupportedError (messages without
        a chat template); KeyboardInterrupt on Ctrl-C, when the requests end at the next step.
        """
        if _is_one(prompt):
            return self._finish([self._submit(prompt, sampling)])[0]  # type: ignore[arg-type]
        requests: list[_Request] = []
        try:
            for number, one in enumerate(prompt):
                with _naming(number, len(prompt)):
                    if not _is_one(one):
                        raise TypeError("a batch is a list of prompts, not of lists of prompts")
                    requests.append(self._submit(one, sampling))  # type: ignore[arg-type]
            return self._finish(requests)
        except BaseException:
            for request in requests:
                request.ticket.cancel()
            raise

    @staticmethod
    def _finish(requests: Sequence[_Request]) -> list[Result]:
        results = []
        for number, request in enumerate(requests):
            while not request.ended:
                request.wait()
            with _naming(number, len(requests)):
                results.append(request.result())
        return results

    def stream(self, prompt: Prompt, **sampling: Unpack[Sampling]) -> TextStream:
        """The text as it is generated: `for piece in engine.stream(…)`. Arguments and errors as generate, errors
        from the first piece on."""
        return TextStream(self._submit(prompt, sampling))

    def astream(self, prompt: Prompt, **sampling: Unpack[Sampling]) -> AsyncTextStream:
        """stream for asyncio: `async for piece in engine.astream(…)`; streams of several tasks run together."""
        return AsyncTextStream(self._submit(prompt, sampling))

    def logits(self, tokens: Sequence[int], *, by_decode: bool = False) -> Any:
        """The logits after every token, [n_tokens, vocab_size] float32, as an object that speaks DLPack and the
        buffer protocol: numpy.asarray, torch.from_dlpack and memoryview take it without a copy.

        by_decode: one token a step, as generation does, instead of chunks. Raises TooLongError, UsageError.
        """
        ticket, array = self._worker.submit_logits(token_ids(tokens), by_decode)
        self._finish([_Request(ticket)])
        return array

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text. add_special: with the tokens that the model wants around a text; parse_special:
        special tokens spelt in the text count as such."""
        return self._worker.encode(text, add_special, parse_special)

    def detokenize(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; ids outside the vocabulary are left out."""
        return self._worker.decode(token_ids(tokens), skip_special)

    def apply_chat_template(self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None,
                            add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text that the model's chat template makes of messages; `variables` are further ones of the template,
        such as enable_thinking. Tokenise it with add_special=False, parse_special=True. Raises UnsupportedError
        without a template, UsageError for messages that the template refuses."""
        return self._worker.render(_json(list(messages)), _json(list(tools)) if tools else "",
                                   _json(variables) if variables else "", add_generation_prompt)

    def plan(self, **machine: Any) -> Plan:
        """What `kt plan` says of this model and these settings: for this machine, or for one described as in
        ktransformers.plan. Memory that this engine has, of GPUs too, counts as free."""
        here = {**self._run_options, "held": self.weight_bytes + self.cache_bytes}
        if not machine.get("ram") and isinstance(machine.get("gpus"), (int, type(None))):
            here |= self._gpu_options
        return plan(self.path, **{**here, **machine})

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes what every module did so far as a Chrome trace (ui.perfetto.dev); needs trace=True. Raises
        UsageError, IoError."""
        self._worker.write_trace(os.fspath(path))

    def save_expert_profile(self, path: str | os.PathLike[str]) -> None:
        """Writes how often each expert was chosen so far, for expert_profile of another engine. Raises
        UnsupportedError where the CPU computes no routed experts, IoError."""
        self._worker.save_expert_profile(os.fspath(path))

    def cancel(self) -> None:
        """Ends all running requests at the next step; they return what they have, with "cancelled"."""
        self._worker.cancel_all()

    def close(self) -> None:
        """Ends all requests (CancelledError for those who wait) and frees the model. Using the engine afterwards is a
        UsageError; closing again does nothing."""
        self._worker.close()
        _open_engines.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ktransformers.Engine {self.path!r}: {self.config.architecture}, context {self.context}>"

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self._worker.prompt_tokens(prompt, False)
        if isinstance(prompt[0], Mapping):
            rendered = self.apply_chat_template(prompt)  # type: ignore[arg-type]
            return self._worker.prompt_tokens(rendered, True)
        return token_ids(prompt)

    def _submit(self, prompt: Prompt, wanted: Sampling) -> _Request:
        if not _is_one(prompt):
            raise TypeError("one prompt is wanted, not a list of them")
        for name in wanted:
            if name not in Sampling.__annotations__:
                near = difflib.get_close_matches(name, Sampling.__annotations__, 1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise TypeError(f"unexpected argument '{name}'{hint}")
        sampling = self._worker.sampling()
        set_options(sampling, {name: value for name, value in wanted.items() if name not in _NOT_SAMPLING})
        max_tokens = wanted.get("max_tokens")
        if max_tokens is not None and not _is_id(max_tokens):
            raise TypeError(f"max_tokens: {max_tokens!r} is not a whole number")
        if max_tokens is not None and max_tokens < 0:
            raise UsageError(f"{max_tokens} is below 0; None is no limit", "max_tokens")
        return _Request(self._worker.submit(
            self._tokens(prompt), sampling, -1 if max_tokens is None else max_tokens, _stops(wanted.get("stop", ())),
            bool(wanted.get("ignore_eos", False)), bool(wanted.get("reuse_prefix", True))))


class _naming:
    """Notes on an exception which prompt of a batch it is about."""

    def __init__(self, number: int, count: int):
        self.note = f"prompt {number + 1} of {count}"
        self.count = count

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self.count > 1 and isinstance(error, Exception):
            error.add_note(self.note)


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"messages, tools and template variables must be JSON: {error}") from None
