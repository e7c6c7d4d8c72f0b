"""The extension below injection: arguments that do not fit are errors, not crashes."""
import gc

import pytest
import torch

from ktransformers import errors

ATTENTION = """
- match: {name: 'self_attn$'}
  replace: {class: ktransformers.operators.attention.KGroupedQueryAttention, kwargs: {generate_device: cpu}}
"""


def ints(*values):
    return torch.tensor(values, dtype=torch.int64)


@pytest.fixture(scope="module")
def natives(small_models):
    small = small_models("qwen3_moe")
    return tuple(small.injected(ATTENTION).injected.native for _ in range(2))


@pytest.fixture
def sequences(natives):
    made = natives[0].make_sequences(10)
    made.select([-1, -1])
    return made


@pytest.mark.parametrize("indices, ids, counts", [
    ([0], ints(1, 2, 3), [-1]), ([0, 1], ints(1, 2, 3), [-1, 4]), ([0, 1], ints(1, 2), [2**62, 2**62]),
    ([0, 0], ints(1, 2), [1, 1]), ([2], ints(1), [1]), ([-1], ints(1), [1]), ([0], ints(1, 2), [1]),
    ([0, 1], ints(1), [1]), ([0], ints(-1), [1]), ([0], ints(1 << 40), [1])])
def test_tokens(natives, sequences, indices, ids, counts):
    with pytest.raises(errors.UsageError):
        natives[0].append(sequences, indices, ids, counts)
    with pytest.raises(errors.UsageError):
        natives[0].run_model(sequences, indices, ids, counts, [-1] * len(ids), torch.empty((0, 0)))
    assert [sequences.length(i) for i in range(2)] == [0, 0]


def test_rows_of_others_and_of_before(natives, sequences):
    native, other = natives
    layer = "model.layers.0.self_attn"
    x = torch.zeros((2, 256))
    rows = native.append(sequences, [0], ints(1, 2), [2])
    native.run_attention(native.module(layer), 0, sequences, rows, x, torch.empty_like(x))
    elsewhere = native.make_sequences(10)
    elsewhere.select([-1])
    for wrong in (lambda: native.run_attention(native.module(layer), 0, elsewhere, rows, x, torch.empty_like(x)),
                  lambda: native.commit(elsewhere, rows),
                  lambda: other.run_attention(other.module(layer), 0, sequences, rows, x, torch.empty_like(x)),
                  lambda: other.append(sequences, [0], ints(1), [1]),
                  lambda: native.run_attention(other.module(layer), 0, sequences, rows, x, torch.empty_like(x)),
                  lambda: native.run_attention(native.module(layer), 99, sequences, rows, x, torch.empty_like(x))):
        with pytest.raises(errors.UsageError):
            wrong()
    native.commit(sequences, rows)
    sequences.select([])
    with pytest.raises(errors.UsageError, match="have changed"):
        native.commit(sequences, rows)
    with pytest.raises(errors.UsageError, match="have changed"):
        native.run_attention(native.module(layer), 0, sequences, rows, x, torch.empty_like(x))


def test_rows_keep_their_sequences_and_sequences_their_model(small_models):
    native = small_models("qwen3_moe").injected(ATTENTION).injected.native
    sequences = native.make_sequences(1)
    sequences.select([-1])
    rows = native.append(sequences, [0], ints(1), [1])
    del native
    gc.collect()
    sequences.select([0, 0])
    del sequences
    gc.collect()
    del rows


def test_modules(natives):
    native, other = natives
    linear, norm = "model.layers.0.self_attn.q_proj", "model.layers.0.input_layernorm"
    wide, wrong = torch.zeros((1, 256)), torch.zeros((1, 7))
    for path in (linear, norm, "model.layers.0.mlp"):
        with pytest.raises(errors.UsageError, match="width"):
            native.run_module(native.module(path), wrong, wrong.clone())
        with pytest.raises(errors.UsageError, match="another model"):
            native.run_module(other.module(path), wide, wide.clone())
    with pytest.raises(errors.UsageError, match="cannot run alone"):
        native.run_module(native.module("model.layers.0.self_attn"), wide, wide.clone())
    experts = native.module("model.layers.0.mlp.experts")
    ids, weights = torch.zeros(native.n_active, dtype=torch.int64), torch.zeros((1, native.n_active))
    with pytest.raises(errors.UsageError, match="width of its output"):
        native.run_experts(experts, wide, ids, weights, wrong)
    with pytest.raises(errors.UsageError, match="expert -1"):
        native.run_experts(experts, wide, ids - 1, weights, wide.clone())
    with pytest.raises(RuntimeError):  # another kind of module
        native.run_gate(experts, wide, torch.zeros((1, native.n_active), dtype=torch.int32), weights)
    assert native.module("nowhere") is None
    for call in (lambda: native.load(["nowhere"]), lambda: native.unload("nowhere")):
        with pytest.raises(errors.NotFoundError):
            call()


def test_sizes(natives, sequences):
    native = natives[0]
    for n in (1 << 40, (1 << 63) - 1):
        with pytest.raises(errors.NoMemoryError):
            native.make_sequences(n)
    with pytest.raises(errors.UsageError):
        native.make_sequences(-1)
    for wrong in (lambda: sequences.select([2]), lambda: sequences.select([-2]), lambda: sequences.truncate(0, -1),
                  lambda: sequences.truncate(2, 0), lambda: sequences.length(-1)):
        with pytest.raises(errors.UsageError):
            wrong()


def test_unloaded_modules(small_models):
    small = small_models("llama")
    model = small.injected()
    wanted = model(small.tokens).logits
    head = model.lm_head
    head.unload()
    for call in (lambda: model(small.tokens), lambda: head(torch.zeros((1, head.in_features)))):
        with pytest.raises(errors.UsageError, match="lm_head: its weights are not loaded"):
            call()
    head.load()
    assert torch.equal(model(small.tokens).logits, wanted)
