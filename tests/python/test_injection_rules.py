"""Rule files in Python: the project's templates, operators of one's own, and everything that can be wrong with them."""
import sys
import warnings

import pytest
import torch
import transformers
from injected import LINEARS, mean_kl
from test_rule_templates import RULES, TEMPLATES, model_of

from ktransformers import _native, errors
from ktransformers.injection.rules import import_class
from ktransformers.optimize.optimize import optimize_and_load_gguf


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", TEMPLATES)
def test_templates(small_models, template):
    """Every template: the model runs in one go, and module by module to the same logits."""
    small = small_models(model_of(template)[0])
    kwargs = {"device_map": {"cuda": "cpu"}, "default_device": "cuda:0"}
    if "fp8" in template:
        with pytest.raises(errors.UnsupportedError, match="KLinearFP8 wants weights stored as block FP8"):
            small.injected((RULES / f"{template}.yaml").read_text(), **kwargs)
        return
    model = small.injected((RULES / f"{template}.yaml").read_text(), **kwargs)
    assert model.injected.why_not_whole(model, {}) == ""
    whole = model(small.tokens).logits
    model.lm_head.register_forward_hook(lambda *args: None)
    assert mean_kl(whole, model(small.tokens).logits) <= 1e-6


def test_every_operator_of_the_catalogue_is_a_python_class():
    for path, kind in _native.catalogue():
        cls = import_class(path)
        assert cls.__doc__ or cls.forward.__doc__, path
        assert cls.__module__ == path.rpartition(".")[0], f"{path} is defined elsewhere"


def test_nothing_in_python_is_missing_in_the_catalogue():
    native = {path for path, _ in _native.catalogue()}
    for module in ("linear", "experts", "attention", "balance_serve_attention", "gate", "RoPE", "layernorm", "mlp",
                   "models", "embedding"):
        names = vars(sys.modules[f"ktransformers.operators.{module}"])
        for name, cls in names.items():
            if isinstance(cls, type) and cls.__module__ == f"ktransformers.operators.{module}" and "Base" not in name:
                assert f"{cls.__module__}.{name}" in native


@pytest.mark.parametrize("path", [
    "ktransformers.models.modeling_deepseek.DeepseekV2MoE", "ktransformers.models.modeling_deepseek_v3.MoEGate",
    "ktransformers.models.modeling_deepseek_v3.DeepseekV3YarnRotaryEmbedding",
    "ktransformers.models.modeling_qwen2_moe.Qwen2MoeSparseMoeBlock",
    "ktransformers.models.modeling_qwen3_moe.Qwen3MoeRMSNorm", "ktransformers.models.modeling_mixtral.MixtralMLP",
    "ktransformers.models.modeling_llama.LlamaModel"])
def test_historic_model_classes(path):
    if path.endswith("MixtralMLP"):  # neither the original's file nor Transformers has it
        with pytest.raises(AttributeError):
            import_class(path)
    else:
        assert issubclass(import_class(path), torch.nn.Module)


OWN = '''
import torch
from ktransformers.operators.base_operator import BaseInjectedModule
from ktransformers.operators.linear import KTransformersLinear


class Doubled(BaseInjectedModule):
    """A linear of one's own, with a keyword argument and weights from the file."""
    def __init__(self, key, gguf_loader, config, orig_module, factor=2.0, shape=(), **kwargs):
        super().__init__(key, gguf_loader, config, orig_module, **kwargs)
        self.factor, self.list = factor, shape

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight) * self.factor / 2.0


class Counted(KTransformersLinear):
    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return super().forward(x)


class Broken(BaseInjectedModule):
    def __init__(self, *args, **kwargs):
        raise RuntimeError("no luck")


class BrokenLoad(Doubled):
    def __init__(self, key, gguf_loader, config, orig_module, **kwargs):
        super().__init__(key, gguf_loader, config, orig_module, **kwargs)
        self.extra = torch.nn.Linear(2, 2)
        self.in_features = 5

    def load(self):
        raise RuntimeError("no weights")


class Block(BaseInjectedModule):
    def load(self):
        super().load()
        self.gate_proj.weight.zero_()


class NoModule:
    pass
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_operators.py").write_text(OWN)
    sys.path.insert(0, str(folder))
    yield "own_operators"
    sys.path.remove(str(folder))


def one_rule(name: str, cls: str, kwargs: str = "generate_device: cpu") -> str:
    return f"- match: {{name: '{name}'}}\n  replace: {{class: {cls}, kwargs: {{{kwargs}}}}}\n"


def test_an_operator_of_ones_own(small_models, own):
    small = small_models("qwen3_moe")
    rules = one_rule(r"^model\.layers\.1\.self_attn\.o_proj$", f"{own}.Doubled",
                     "generate_device: cpu, factor: 2.0, shape: [1, {a: b}]") + LINEARS
    model = small.injected(rules)
    operator = model.model.layers[1].self_attn.o_proj
    assert operator.list == [1, {"a": "b"}] and operator.factor == 2.0
    with pytest.warns(UserWarning, match="'model.layers.1.self_attn.o_proj' is Doubled"):
        logits = model(small.tokens).logits
    with torch.no_grad():
        assert mean_kl(small.reference(small.tokens).logits, logits) <= 1e-9
        operator.factor = 4.0
        small.reference.model.layers[1].self_attn.o_proj.weight.mul_(2)
        assert mean_kl(small.reference(small.tokens).logits, model(small.tokens).logits) <= 1e-9
        small.reference.model.layers[1].self_attn.o_proj.weight.div_(2)


def test_a_subclass_of_an_operator(small_models, own):
    small = small_models("qwen3_moe")
    rules = one_rule("^lm_head$", f"{own}.Counted", "generate_device: cpu, generate_op: KLinearTorch") + LINEARS
    model = small.injected(rules)
    assert (model.lm_head.native.op, model.lm_head.native.weight_format) == ("KLinearTorch", "F32")
    calls = sys.modules[own].Counted.calls
    with pytest.warns(UserWarning, match="'lm_head' is Counted"):
        logits = model(small.tokens).logits
    assert sys.modules[own].Counted.calls == calls + 1
    with torch.no_grad():
        assert mean_kl(small.reference(small.tokens).logits, logits) <= 1e-9


def test_a_subclass_inside_a_native_block(small_models, own):
    small = small_models("qwen3_moe")
    rules = one_rule(r"^model\.layers\.0\.self_attn\.q_proj$", f"{own}.Counted") + one_rule(
        "self_attn$", "ktransformers.operators.attention.KGroupedQueryAttention") + LINEARS
    model = small.injected(rules)
    calls = sys.modules[own].Counted.calls
    with pytest.warns(UserWarning, match="q_proj' is Counted"):
        logits = model(small.tokens).logits
    assert sys.modules[own].Counted.calls == calls + 1
    with torch.no_grad():
        assert mean_kl(small.reference(small.tokens).logits, logits) <= 1e-9


def test_what_load_makes_of_children_stays(small_models, own):
    small = small_models("llama")
    model = small.injected(one_rule(r"^model\.layers\.0\.mlp$", f"{own}.Block"))
    assert not model.model.layers[0].mlp.gate_proj.weight.any()
    assert model.model.layers[0].mlp.up_proj.weight.any()


def test_modules_that_a_rule_closes_have_no_entry(small_models):
    small = small_models("qwen3_moe")
    rules = r"- match: {name: '^model\.layers\.0\.self_attn$'}" + (
        "\n  replace: {class: default, kwargs: {generate_device: cpu}}\n  recursive: False\n") + LINEARS
    model = small.injected(rules)
    assert "model.layers.0.self_attn" in model.gguf_loader.tensor_device_map
    assert "model.layers.0.self_attn.q_proj" not in model.gguf_loader.tensor_device_map
    assert "model.layers.1.self_attn.q_proj" in model.gguf_loader.tensor_device_map


def state_of(model):
    return {path: (type(m), dict(m._parameters), dict(m._buffers), m.training, m.__dict__.get("in_features"))
            for path, m in model.named_modules()}


BAD = {
    "no such class": (one_rule("lm_head", "ktransformers.operators.linear.KLinearTorc"), errors.BadFileError,
                      r"rules.yaml:2.*KLinearTorc[\s\S]*did you mean"),
    "no such module": (one_rule("lm_head", "no_such_package.Thing"), errors.BadFileError,
                       r"rules.yaml:2[\s\S]*ModuleNotFoundError"),
    "no torch module": (one_rule("lm_head", "own_operators.NoModule"), errors.BadFileError,
                        r"rules.yaml:2[\s\S]*no torch.nn.Module class"),
    "constructor": (one_rule("lm_head", "own_operators.Broken"), errors.UsageError,
                    r"rules.yaml:1: 'lm_head': own_operators.Broken failed: RuntimeError: no luck"),
    "load": (one_rule("lm_head", "own_operators.BrokenLoad"), errors.UsageError,
             r"rules.yaml:1: 'lm_head': own_operators.BrokenLoad.load\(\) failed: RuntimeError: no weights"),
    "kwarg": (one_rule("lm_head", "ktransformers.operators.linear.KLinearMarlin", "num_bits: 5"), errors.BadFileError,
              r"rules.yaml:2:[\s\S]*num_bits"),
    "kwarg of a subclass": (one_rule("lm_head", "own_operators.Counted", "generate_op: KLinearTorc"),
                            errors.BadFileError, r"rules.yaml:2:[\s\S]*KLinearTorc[\s\S]*did you mean"),
    "device": (one_rule("lm_head", "ktransformers.operators.linear.KLinearMarlin", "generate_device: cuda:0"),
               errors.BadFileError, r"rules.yaml:2:[\s\S]*cuda:0"),
    "kind": (one_rule("lm_head", "ktransformers.operators.layernorm.KRMSNorm"), errors.BadFileError,
             r"rules.yaml:2:[\s\S]*of kind Norm, but 'lm_head' is of kind Linear"),
    "yaml": ("- match: {name: [}", errors.BadFileError, r"rules.yaml:1"),
    "tag": (one_rule("lm_head", "own_operators.Doubled", "factor: !thing 3"), errors.BadFileError, "!thing"),
    "match class": ("- match: {class: torch.nn.Lineer}\n  replace: {class: default}\n", errors.BadFileError,
                    r"rules.yaml:1[\s\S]*AttributeError"),
    "other architecture": ("- match: {class: ktransformers.models.modeling_llama.LlamaModel}\n  replace: {class: "
                           "ktransformers.operators.models.KDeepseekV2Model}\n" +
                           one_rule(r"^model$", "ktransformers.operators.models.KDeepseekV2Model"),
                           errors.BadFileError, r"rules.yaml:4[\s\S]*KDeepseekV2Model is for deepseek_v2"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BAD)
def test_bad_rules_leave_the_model_as_it_was(small_models, own, tmp_path, case):
    rules, error, message = BAD[case]
    small = small_models("qwen3_moe")
    model = small.bare()
    before, cls = state_of(model), type(model)
    (tmp_path / "rules.yaml").write_text(rules)
    with pytest.raises(error, match=message):
        optimize_and_load_gguf(model, tmp_path / "rules.yaml", small.gguf, small.hf_config, default_device="cpu")
    assert type(model) is cls
    after = state_of(model)
    assert before.keys() == after.keys()
    for path, (kind, parameters, buffers, *rest) in before.items():
        assert after[path][0] is kind and after[path][3:] == tuple(rest)
        assert all(after[path][1][n] is p for n, p in parameters.items())
        assert all(after[path][2][n] is b for n, b in buffers.items())


def rules_file(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(LINEARS)
    return path


def test_weights_that_are_not_the_models(small_models, tmp_path):
    qwen, llama = small_models("qwen3_moe"), small_models("llama")
    with pytest.raises(errors.MismatchError, match="the weights are of type llama, the model is qwen3_moe"):
        optimize_and_load_gguf(qwen.bare(), rules_file(tmp_path), llama.gguf, qwen.hf_config, default_device="cpu")
    config = qwen.hf_config
    config.vocab_size += 1
    with pytest.raises(errors.MismatchError, match="vocab_size is 263 in the weights, 264 in the model"):
        optimize_and_load_gguf(qwen.bare(), rules_file(tmp_path), qwen.gguf, config, default_device="cpu")
    with pytest.raises(errors.NotFoundError, match="nowhere.gguf"):
        optimize_and_load_gguf(qwen.bare(), rules_file(tmp_path), tmp_path / "nowhere.gguf", qwen.hf_config,
                               default_device="cpu")
    with pytest.raises(errors.NotFoundError, match="no such rule file"):
        optimize_and_load_gguf(qwen.bare(), tmp_path / "none.yaml", qwen.gguf, qwen.hf_config, default_device="cpu")


def test_sizes_that_are_not_the_models(small_models, tmp_path):
    small = small_models("llama")
    config = small.hf_config
    config.intermediate_size *= 2
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(errors.MismatchError, match="layers.0.mlp.gate_proj.weight: its shape is"):
        optimize_and_load_gguf(model, rules_file(tmp_path), small.gguf, config, default_device="cpu")


def test_files_that_are_no_rules(small_models, tmp_path):
    small = small_models("llama")
    with pytest.raises(errors.IoError, match="directory"):
        optimize_and_load_gguf(small.bare(), tmp_path, small.gguf, small.hf_config, default_device="cpu")


def test_a_missing_tensor(small_models, tmp_path):
    from safetensors.torch import load_file, save_file
    small = small_models("qwen3_moe")
    folder = tmp_path / "weights"
    folder.mkdir()
    weights = load_file(small.safetensors / "model.safetensors")
    weights.pop("model.layers.1.self_attn.k_proj.weight")
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text((small.safetensors / "config.json").read_text())
    model = small.bare()
    before = state_of(model)
    with pytest.raises(errors.MismatchError, match="model.layers.1.self_attn.k_proj.weight"):
        optimize_and_load_gguf(model, rules_file(tmp_path), folder, small.hf_config, default_device="cpu")
    assert {p: s[0] for p, s in state_of(model).items()} == {p: s[0] for p, s in before.items()}


def test_devices(small_models, tmp_path):
    small = small_models("llama")
    with pytest.raises(errors.UsageError, match=r"default_device: 'cuda:0' does not exist here.*default_device='cpu'"):
        optimize_and_load_gguf(small.bare(), rules_file(tmp_path), small.gguf, small.hf_config)
    with pytest.raises(errors.UsageError, match="device_map"):
        small.injected(device_map={"npu": "cpu"})
    rules = one_rule("^lm_head$", "ktransformers.operators.linear.KLinearMarlin", "generate_device: cuda")
    assert small.injected(rules, device_map={"cuda": "cpu"}).lm_head.native.device == "cuda:0"


def test_a_model_with_weights_is_refused(small_models, tmp_path):
    small = small_models("llama")
    with pytest.raises(errors.UsageError, match="'model.embed_tokens.weight' has weights already"):
        optimize_and_load_gguf(small.reference, rules_file(tmp_path), small.gguf, small.hf_config,
                               default_device="cpu")
    model = small.injected()
    with pytest.raises(errors.UsageError, match="has weights already"):
        optimize_and_load_gguf(model, rules_file(tmp_path), small.gguf, small.hf_config, default_device="cpu")


def test_a_wrong_batch_or_mask_or_token(small_models):
    small = small_models("llama")
    model = small.injected()
    out = model(small.tokens)
    with pytest.raises(errors.UsageError, match="cache: it holds 1 sequences, the batch has 2"):
        model(small.tokens.expand(2, -1), cache=out.cache)
    with pytest.raises(errors.UsageError, match=r"attention_mask: its shape is \(1, 3\), wanted \(1, 40\)"):
        model(small.tokens, attention_mask=torch.ones((1, 3)))
    with pytest.raises(errors.UsageError, match="token id 263 is outside the vocabulary of 263"):
        model(torch.tensor([[263]]))
    with pytest.raises(errors.UnsupportedError, match="position_ids"):
        model(small.tokens, position_ids=small.tokens.new_full((1, 40), 3))
    with pytest.raises(errors.UsageError, match="exactly one of input_ids"):
        model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(small.tokens)  # and it goes on
