"""prefill_and_generate: one prompt, streamed to the terminal."""
import time
from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TextStreamer

from ktransformers import _native
from ktransformers.errors import UnsupportedError, UsageError
from ktransformers.util.utils import tf_logits_warper


@dataclass
class Run:
    """What one prompt did; times in seconds."""
    n_prompt: int
    tokens: list[int] = field(default_factory=list)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    n_decoded: int = 0

    def report(self) -> str:
        def rate(n, seconds):
            return n / seconds if seconds > 0 else 0.0
        return "\n".join([
            f"prompt eval count:    {self.n_prompt} token(s)",
            f"prompt eval duration: {self.prefill_seconds}s",
            f"prompt eval rate:     {rate(self.n_prompt, self.prefill_seconds)} tokens/s",
            f"eval count:           {len(self.tokens)} token(s)",
            f"eval duration:        {self.decode_seconds}s",
            f"eval rate:            {rate(self.n_decoded, self.decode_seconds)} tokens/s",
        ])


def stop_ids(model, tokenizer) -> list[int]:
    ids = set()
    for eos in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        ids.update(eos if isinstance(eos, (list, tuple)) else [] if eos is None else [eos])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if isinstance(end, int) and end != tokenizer.unk_token_id:
        ids.add(end)
    return sorted(ids)


def native_sampling(config) -> _native.SamplingParams | None:
    """The engine's sampling for a generation config; None when that asks for more than the engine has."""
    if config.epsilon_cutoff or config.eta_cutoff:
        return None
    sampling = _native.SamplingParams()
    sampling.repetition_penalty = config.repetition_penalty or 1.0
    sampling.repeat_last_n = -1
    sampling.temperature = 0.0
    if config.do_sample:
        sampling.temperature = 1.0 if config.temperature is None else config.temperature
        sampling.seed = int(torch.randint(1, 2**53, ()))
    sampling.top_k = config.top_k or 0
    sampling.top_p = 1.0 if config.top_p is None else config.top_p
    sampling.min_p = config.min_p or 0.0
    sampling.typical_p = 1.0 if config.typical_p is None else config.typical_p
    return sampling


def run_native(model, prompt: list[int], sampling: _native.SamplingParams, max_new_tokens: int, stops: list[int],
               on_token) -> Run:
    result = model.injected.native.generate(prompt, sampling, max_new_tokens, stops, on_token)
    return Run(len(prompt), result["tokens"], result["prefill_seconds"], result["decode_seconds"],
               result["n_decoded"])


def run_by_forward(model, prompt: list[int], max_new_tokens: int, stops: list[int], on_token) -> Run:
    config = model.generation_config
    processors = tf_logits_warper(config) if config.do_sample else LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        processors.insert(0, RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    run = Run(len(prompt))
    cache = model.new_cache(len(prompt) + max_new_tokens)
    tokens = torch.tensor([prompt])
    step = tokens
    while len(run.tokens) < max_new_tokens:
        start = time.perf_counter()
        logits = model(step, use_cache=True, logits_to_keep=1, **{model.injected.cache_name: cache}).logits[:, -1]
        scores = processors(tokens, logits.float())
        if config.do_sample and config.temperature != 0:
            step = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)
        else:
            step = scores.argmax(dim=-1, keepdim=True)
        seconds = time.perf_counter() - start
        if run.tokens:
            run.decode_seconds += seconds
            run.n_decoded += 1
        else:
            run.prefill_seconds += seconds
        token = int(step)
        if token in stops:
            break
        tokens = torch.cat([tokens, step], dim=1)
        run.tokens.append(token)
        on_token(token)
    return run


def generate_one(model, tokenizer, inputs: torch.Tensor, max_new_tokens: int, mode: str,
                 force_think: bool) -> list[int]:
    if mode != "normal":
        raise UnsupportedError("the selection of blocks of a long context is not there; 'normal' attends to all of it",
                               f"mode={mode!r}")
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 2 or inputs.shape[0] != 1 or inputs.shape[1] == 0:
        raise UsageError("a tensor [1, tokens] of one prompt is wanted", "inputs")
    prompt = inputs[0].tolist()
    if force_think:
        prompt += tokenizer.encode("<think>\n", add_special_tokens=False)
        print("<think>")
    streamer = TextStreamer(tokenizer, skip_special_tokens=False)

    def on_token(token: int) -> None:
        streamer.put(torch.tensor([token]))
    stops = stop_ids(model, tokenizer)
    sampling = native_sampling(model.generation_config)
    if sampling is None or model.injected.why_not_whole(model, {}):
        run = run_by_forward(model, prompt, max_new_tokens, stops, on_token)
    else:
        run = run_native(model, prompt, sampling, max_new_tokens, stops, on_token)
    streamer.end()
    print(run.report())
    return run.tokens
