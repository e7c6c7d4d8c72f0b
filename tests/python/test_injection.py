"""optimize_and_load_gguf: models of every architecture against plain Transformers, whole and module by module."""
import contextlib
import warnings

import pytest
import torch
from injected import ARCHITECTURES, LINEARS, mean_kl

from ktransformers.errors import UsageError
from ktransformers.injection.cache import EngineCache
from ktransformers.injection.weights import LazyWeight
from ktransformers.operators.linear import KTransformersLinear

MIXED = LINEARS + r"""
- match: {name: '^model\.layers\..*\.(mlp|block_sparse_moe)\.experts$'}
  replace:
    class: ktransformers.operators.experts.KTransformersExperts
    kwargs: {generate_device: cpu, prefill_device: cpu, generate_op: KExpertsCPU, prefill_op: KExpertsTorch}
  recursive: False
- match: {name: '^model\.layers\..*\.self_attn$'}
  replace: {class: ktransformers.operators.attention.ATTENTION, kwargs: {generate_device: cpu, prefill_device: cpu}}
- match: {name: 'norm$'}
  replace: {class: ktransformers.operators.layernorm.KRMSNorm, kwargs: {generate_device: cpu, prefill_device: cpu}}
- match: {name: '^model\.embed_tokens$'}
  replace: {class: ktransformers.operators.embedding.KEmbeddingCPU, kwargs: {generate_device: cpu}}
"""


def mixed_rules(model) -> str:
    latent = "kv_lora_rank" in model.config
    return MIXED.replace("ATTENTION", "KLatentAttention" if latent else "KGroupedQueryAttention")


def reference_logits(small, tokens=None):
    with torch.no_grad():
        return small.reference(small.tokens if tokens is None else tokens).logits


@pytest.mark.parametrize("source", ["gguf", "safetensors"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_transformers(small_models, name, source):
    small = small_models(name)
    model = small.injected(weights=getattr(small, source))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it must run in one go
        logits = model(small.tokens).logits
    assert mean_kl(reference_logits(small), logits) <= 1e-9


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_defaults_stay_close(small_models, name):
    small = small_models(name)
    model = small.injected(act="q16", kv="f16")
    assert mean_kl(reference_logits(small), model(small.tokens).logits) <= 1e-5


@pytest.mark.filterwarnings("ignore:this rule decides no module", "ignore:.*decides no module")
@pytest.mark.parametrize("rules", ["linears", "mixed"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_module_by_module_equals_transformers(small_models, name, rules):
    small = small_models(name)
    model = small.injected(LINEARS if rules == "linears" else mixed_rules(small))
    seen = []
    model.model.layers[0].register_forward_hook(lambda module, args, output: seen.append(output))
    with pytest.warns(UserWarning, match="module by module.*has a hook"):
        logits = model(small.tokens).logits
    assert seen
    assert mean_kl(reference_logits(small), logits) <= 1e-9
    # And step by step, over the cache.
    cache = model.new_cache()
    parts = [model(small.tokens[:, a:b], cache=cache).logits for a, b in ((0, 17), (17, 18), (18, 40))]
    assert mean_kl(reference_logits(small), torch.cat(parts, dim=1)) <= 1e-9


def test_left_padding_and_the_cache(small_models):
    small = small_models("qwen3_moe")
    model = small.injected()
    lengths, n = (40, 13), 40
    ids = torch.zeros((2, n), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, n - length:] = small.tokens[0, :length]
        mask[row, n - length:] = 1
    whole = model(ids, attention_mask=mask).logits
    for row, length in enumerate(lengths):
        alone = model(small.tokens[:, :length]).logits[0]
        assert torch.equal(whole[row, n - length:], alone)
    assert (whole[1, :n - 13] == 0).all()
    cache = model.new_cache()
    first = model(ids[:, :30], attention_mask=mask[:, :30], cache=cache)
    second = model(ids[:, 30:], attention_mask=mask, cache=first.cache)
    assert torch.equal(second.logits, whole[:, 30:])
    assert [cache.sequences.length(i) for i in range(2)] == list(lengths)
    model.model.norm.register_forward_pre_hook(lambda *args: None)
    with pytest.warns(UserWarning, match="module by module"):
        modules = model(ids, attention_mask=mask).logits
    assert mean_kl(whole[mask.bool()], modules[mask.bool()]) <= 1e-9


def test_logits_to_keep(small_models):
    small = small_models("llama")
    model = small.injected()
    everything = model(small.tokens).logits
    assert torch.equal(model(small.tokens, logits_to_keep=3).logits, everything[:, -3:])
    for columns in ([0, 7], [7, 0], [3, 3]):
        kept = model(small.tokens, logits_to_keep=torch.tensor(columns)).logits
        assert torch.equal(kept, everything[:, columns])


def test_loss_and_outputs_of_the_interface(small_models):
    small = small_models("qwen3_moe")
    model = small.injected()
    with torch.no_grad():
        wanted = small.reference(small.tokens, labels=small.tokens)
    got = model(input_ids=small.tokens, labels=small.tokens)
    assert float(got.loss) == pytest.approx(float(wanted.loss), rel=1e-5)
    assert isinstance(got.cache, EngineCache) and got.cache.get_seq_length() == 40
    assert model(small.tokens, use_cache=False).cache is None
    assert isinstance(model(small.tokens, return_dict=False), tuple)
    with pytest.warns(UserWarning, match="output_hidden_states is asked for"):
        hidden = model(small.tokens, output_hidden_states=True).hidden_states
    with torch.no_grad():
        reference = small.reference(small.tokens, output_hidden_states=True).hidden_states
    assert len(hidden) == len(reference)
    torch.testing.assert_close(hidden[-1], reference[-1], rtol=1e-3, atol=1e-4)
    with pytest.warns(UserWarning, match="inputs_embeds are given"):
        embeds = model(inputs_embeds=small.reference.get_input_embeddings()(small.tokens)).logits
    assert mean_kl(wanted.logits, embeds) <= 1e-9


def test_the_model_keeps_its_class_and_its_modules(small_models):
    small = small_models("qwen3_moe")
    bare = small.bare()
    model = small.injected()
    assert isinstance(model, type(bare)) and type(model).__name__ == type(bare).__name__
    head = model.lm_head
    assert isinstance(head, KTransformersLinear)
    assert head.in_features == bare.lm_head.in_features and head.key == "lm_head"
    head.note = "set here"  # a name that the original lacks stays on the operator
    assert "note" not in head.orig_module.__dict__
    head.in_features = 5    # one that it has goes there
    assert head.orig_module.in_features == 5
    assert model.gguf_loader.tensor_device_map["lm_head"]["generate_op"] == "KLinearCPUInfer"
    assert model.gguf_loader.tensor_device_map["model.norm"] == {"generate_device": "cpu", "prefill_device": "cpu"}
    assert model.device == torch.device("cpu") and not model.training


def test_weights_are_read_when_something_wants_them(small_models):
    small = small_models("mixtral")
    model = small.injected()
    weight = model.model.layers[0].mlp.experts.gate_up_proj
    assert isinstance(weight, LazyWeight) and "not read" in repr(weight)
    state = model.state_dict()
    reference = small.reference.state_dict()
    assert set(state) == set(reference)
    for name, value in reference.items():
        torch.testing.assert_close(state[name] + 0, value, rtol=0, atol=0)


def test_tied_weights_stay_tied(small_models):
    small = small_models("qwen2")
    model, bare = small.injected(), small.bare()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == bare.num_parameters()
    assert torch.equal(model.lm_head.weight + 0, small.reference.lm_head.weight)


def test_a_module_replaced_before_the_first_call_counts(small_models):
    small = small_models("qwen3_moe")
    model = small.injected(mixed_rules(small))
    wanted = model(small.tokens).logits
    model = small.injected(mixed_rules(small))

    class Zero(torch.nn.Module):
        def forward(self, x):
            return torch.zeros_like(x[..., :256])

    model.model.layers[0].self_attn.o_proj = Zero()
    with pytest.warns(UserWarning, match="'o_proj' was replaced"):
        changed = model(small.tokens).logits
    assert mean_kl(wanted, changed) > 1e-6


def test_operators_keep_the_mode_of_the_original_module(small_models):
    model = small_models("qwen3_moe").injected(mixed_rules(small_models("qwen3_moe")))
    assert not model.model.layers[0].self_attn.orig_module.training


def test_a_failed_forward_leaves_the_cache_as_it_was(small_models):
    small = small_models("qwen3_moe")
    model = small.injected()
    whole = model(small.tokens).logits

    def fail(*_):
        raise RuntimeError("stopped")

    cache = model.new_cache()
    for begin, end in ((0, 17), (17, 40)):
        with pytest.raises(UsageError, match="token id -1"):
            model(torch.full((1, 3), -1), cache=cache)
        hook = model.model.layers[-1].mlp.register_forward_hook(fail)
        with pytest.warns(UserWarning, match="module by module") if begin == 0 else contextlib.nullcontext():
            with pytest.raises((RuntimeError, UsageError), match="stopped" if begin == 0 else "another way"):
                model(small.tokens[:, begin:end], cache=cache)
        hook.remove()
        assert cache.get_seq_length() == begin
        assert torch.equal(model(small.tokens[:, begin:end], cache=cache).logits, whole[:, begin:end])
    model.model.norm.register_forward_hook(lambda *_: None)
    cache = model.new_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = model(small.tokens).logits
        model(small.tokens[:, :17], cache=cache)
        hook = model.model.layers[-1].mlp.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="stopped"):
            model(small.tokens[:, 17:], cache=cache)
        hook.remove()
        assert mean_kl(whole[:, 17:], model(small.tokens[:, 17:], cache=cache).logits) <= 1e-12


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
def test_layers_unload_and_load(small_models, name):
    small = small_models(name)
    model = small.injected()
    wanted = model(small.tokens).logits
    head = model.lm_head
    assert head.native.weight_bytes > 0
    head.unload()
    assert head.native.weight_bytes == 0
    head.load()
    assert torch.equal(model(small.tokens).logits, wanted)
