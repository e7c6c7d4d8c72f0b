"""Rule file + Transformers model → operators in their places, with weights."""
import importlib
import pathlib
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import nn

from ktransformers import _native
from ktransformers.errors import BadFileError, IoError, KtError, MismatchError, NotFoundError, UsageError
from ktransformers.injection import root
from ktransformers.injection.weights import WeightLoader, lazy_parameter
from ktransformers.operators.base_operator import NativeOperator

EMULATED_GPUS = 16  # as many as a rule file may name when the CPU stands in for them


@dataclass
class Decision:
    """What happens to one module of the model."""
    path: str
    module: nn.Module
    kind: str           # of the native model ("Linear", …), "List" or "Other"
    native_path: str    # of the native module that it is, or empty
    stands_for: str     # of the native module that computes it, or empty
    class_path: str = "default"
    kwargs: dict[str, Any] = field(default_factory=dict)
    line: int = 0       # of its rule; 0: no rule
    visited: bool = True


def import_class(path: str) -> type:
    """The class of a dotted path. Raises ImportError, AttributeError, TypeError."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ImportError("a class path has a module: package.module.Class")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise TypeError("it is no torch.nn.Module class")
    return found


def base_in(catalogue: set[str], cls: type) -> str:
    """Path of the nearest operator of ours that a class is derived from; empty without one."""
    paths = (f"{c.__module__}.{c.__qualname__}" for c in cls.__mro__)
    return next((path for path in paths if path in catalogue), "")


class Rules:
    """A rule file with its classes imported."""

    def __init__(self, path: str):
        self.path = path
        try:
            self.text = pathlib.Path(path).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise NotFoundError("no such rule file", path) from error
        except OSError as error:
            raise IoError(str(error.strerror), path) from error
        except UnicodeDecodeError as error:
            raise UsageError("a rule file is UTF-8 text", path) from error
        matched, replaced, self.lines = _native.rule_classes(self.text, path)
        self.classes: dict[str, type] = {}
        self.missing: dict[str, str] = {}
        for name in dict.fromkeys([*matched, *replaced]):
            if name is None or name == "default":
                continue
            try:
                self.classes[name] = import_class(name)
            except Exception as error:  # whatever importing a user's module raises
                self.missing[name] = f"{type(error).__name__}: {error}"
        self.matched = [m for m in dict.fromkeys(matched) if m in self.classes]
        self.replaced = replaced
        ours = {path for path, _ in _native.catalogue()}
        self.operators = {r: base_in(ours, self.classes[r]) for r in replaced if r in self.classes and r not in ours}

    def kwargs(self) -> list[dict[str, Any]]:
        """Keyword arguments of each rule, as Python values."""
        try:
            rules = yaml.safe_load(self.text)
        except yaml.YAMLError as error:  # a tag in keyword arguments, which the native parser leaves alone
            raise BadFileError(str(error), self.path) from error
        return [(rule.get("replace") or {}).get("kwargs") or {} for rule in rules]


def listing(model: nn.Module, rules: Rules) -> list[tuple[str, list[str], bool]]:
    return [(path, [c for c in rules.matched if isinstance(m, rules.classes[c])],
             bool(m._parameters) or any(b is not None for b in m._buffers.values()))
            for path, m in model.named_modules()]


def decide(model: nn.Module, rules: Rules, native, default_device: str) -> list[Decision]:
    kwargs = rules.kwargs()
    decisions = []
    for (path, module), by, (kind, stands_for, is_native) in zip(model.named_modules(), native.decided_by,
                                                                native.nodes):
        d = Decision(path, module, kind, stands_for if is_native else "", stands_for, visited=by != -2)
        if by >= 0:
            d.class_path, d.kwargs, d.line = rules.replaced[by], dict(kwargs[by]), rules.lines[by]
        else:
            d.kwargs = {"generate_device": default_device, "prefill_device": default_device}
        decisions.append(d)
    return decisions


def is_of_transformers(module: nn.Module) -> bool:
    """Whether a module left as it was computes what its name says: its class is nobody's own."""
    package = type(module).__module__.partition(".")[0]
    return package in ("torch", "transformers", "transformers_modules", "ktransformers")


class Snapshot:
    """What the modules of a model hold, to put it back."""

    def __init__(self, model: nn.Module):
        self._saved = [(table, dict(table)) for m in model.modules()
                       for table in (m.__dict__, m._modules, m._parameters, m._buffers)]

    def restore(self) -> None:
        for table, content in self._saved:
            table.clear()
            table.update(content)


class Injector:
    """One call of optimize_and_load_gguf."""

    def __init__(self, model: nn.Module, rules: Rules, native, config, default_device: str, emulate: bool):
        self.model, self.rules, self.native, self.config = model, rules, native, config
        self.emulate = emulate  # the CPU computes what rules place on GPUs
        self.loader = WeightLoader(native)
        self.decisions = decide(model, rules, native, default_device)
        self.operators: dict[str, nn.Module] = {}
        self._tied: dict[int, torch.Tensor] = {}  # identity of a meta parameter → what replaces it everywhere

    def run(self) -> None:
        before = Snapshot(self.model)
        try:
            self._construct()
            self._put_in_place()
            self._load()
            self._finish()
        except BaseException:
            before.restore()
            raise

    def _where(self, decision: Decision) -> str:
        return f"{self.rules.path}:{decision.line}: '{decision.path}'"

    def _construct(self) -> None:
        for d in self.decisions:
            if d.visited:
                self.loader.tensor_device_map[d.path] = d.kwargs
            if d.class_path == "default" or d.path == "":
                continue  # what replaces the whole model in a rule is what this whole model becomes
            cls = self.rules.classes[d.class_path]
            if issubclass(cls, NativeOperator) and d.stands_for and not d.native_path:
                continue  # attention computes it, as a warning has said
            try:
                with torch.device("meta"):
                    operator = cls(d.path, self.loader, self.config, d.module, **self._redirected(d.kwargs))
            except Exception as error:
                raise UsageError(f"{d.class_path} failed: {type(error).__name__}: {error}",
                                 self._where(d)) from error
            if isinstance(operator, NativeOperator):
                self._attach(operator, d)
            self.operators[d.path] = operator

    def _redirected(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments with the devices that a device map puts in the place of others."""
        if not self.emulate:
            return kwargs
        return {k: "cpu" if k in ("generate_device", "prefill_device") and str(v).startswith("cuda") else v
                for k, v in kwargs.items()}

    def _attach(self, operator: NativeOperator, d: Decision) -> None:
        module = self.native.module(d.native_path) if d.native_path else None
        if module is None:
            raise UsageError(f"{d.class_path}: the native model has no such module", self._where(d))
        operator.attach(module, d.native_path)

    def _put_in_place(self) -> None:
        for path, operator in self.operators.items():
            parent, _, name = path.rpartition(".")
            self.model.get_submodule(parent)._modules[name] = operator

    def _is_ours(self, d: Decision) -> bool:
        """Whether the native model computes this module as the plan wants it."""
        if d.path not in self.operators:
            return is_of_transformers(d.module) and bool(d.kind != "Other" or not d.module._parameters)
        operator = self.operators[d.path]
        return isinstance(operator, NativeOperator) and type(operator).__module__.startswith("ktransformers.operators")

    def _load(self) -> None:
        foreign = [d for d in self.decisions if not self._is_ours(d)]
        self.obstacle = f"'{foreign[0].path}' is {type(self.model.get_submodule(foreign[0].path)).__name__}" \
            if foreign else ""
        for d in self.decisions:
            operator = self.operators.get(d.path)
            if isinstance(operator, NativeOperator):
                operator.remember_children(all(not f.path.startswith(d.path + ".") for f in foreign))
        if not foreign:
            self.native.load_all()
        for d in self.decisions:
            self._load_one(d, whole=not foreign)

    def _load_one(self, d: Decision, whole: bool) -> None:
        operator = self.operators.get(d.path)
        if operator is not None and not isinstance(operator, NativeOperator):
            try:
                operator.load()
            except KtError:
                raise
            except Exception as error:
                raise UsageError(f"{d.class_path}.load() failed: {type(error).__name__}: {error}",
                                 self._where(d)) from error
            return
        if operator is not None and not whole:
            operator.load()
        for name, meta in d.module._parameters.items():
            if meta is not None and meta.is_meta:  # else load() of an operator above has read it
                d.module._parameters[name] = self._parameter(d, name, meta)
        self._load_buffers(d)

    def _parameter(self, d: Decision, name: str, meta: torch.Tensor) -> torch.Tensor:
        if id(meta) not in self._tied:
            full = f"{d.path}.{name}" if d.path else name
            self.loader.check_parameter(full, meta.shape)
            self._tied[id(meta)] = lazy_parameter(self.loader, full, meta)
        return self._tied[id(meta)]

    def _load_buffers(self, d: Decision) -> None:
        """Buffers of the checkpoint are read, others computed anew: a model on the meta device has none of them."""
        module = d.module
        if not any(b is not None and b.is_meta for b in module._buffers.values()):
            return
        for name, meta in module._buffers.items():
            full = f"{d.path}.{name}"
            if meta is not None and self.loader.has_parameter(full, meta.shape):
                module._buffers[name] = self.loader.read_parameter(full, meta.shape).to(meta.dtype)
        if any(b is not None and b.is_meta for b in module._buffers.values()):
            self._rebuild_buffers(d)

    def _rebuild_buffers(self, d: Decision) -> None:
        module = d.module
        try:
            with torch.device("cpu"):
                fresh = type(module)(config=module.config)
        except Exception as error:
            raise MismatchError(f"its buffers are not in the weights and cannot be made anew: {error}",
                                d.path) from error
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = fresh._buffers[name]

    def _finish(self) -> None:
        self.model.eval()
        object.__setattr__(self.model, "gguf_loader", self.loader)
        root.make_injected(self.model, root.Injected(self.native, self.loader, self.model, self.obstacle))


def check_is_meta(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:
            raise UsageError(f"'{name}' has weights already: build the model with torch.device('meta')", "module")


def inject(model: nn.Module, rule_file: str, weights: str, config: Any, default_device: str,
           device_map: dict[str, str] | None, **options) -> None:
    check_is_meta(model)
    emulate = 0
    for source, target in (device_map or {}).items():
        if source.partition(":")[0] != "cuda" or target != "cpu":
            raise UsageError(f"{source!r}: {target!r}; only {{'cuda': 'cpu'}} is known", "device_map")
        emulate = EMULATED_GPUS
    if default_device.startswith("cuda") and emulate == 0:
        raise UsageError(f"'{default_device}' does not exist here; pass default_device='cpu', and for rules that name "
                         "cuda device_map={'cuda': 'cpu'}", "default_device")
    rules = Rules(rule_file)
    native = _native.Injection.open(weights, config.to_json_string(use_diff=False), rules.text, rules.path,
                                    listing(model, rules), rules.missing, rules.operators, default_device, emulate,
                                    **options)
    for warning in native.warnings:
        warnings.warn(warning, stacklevel=3)
    Injector(model, rules, native, config, default_device, emulate > 0).run()
