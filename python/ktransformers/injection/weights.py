"""The weights of an injected model, by the names that Transformers gives them."""
import math

import torch

from ktransformers.errors import MismatchError, NotFoundError


class LazyWeight(torch.Tensor):
    """A parameter that is read from the weights' file when something computes with it. It is as large as its tensor
    from then on; modules that run natively never need it."""

    @staticmethod
    def __new__(cls, shape: torch.Size, dtype: torch.dtype, read):
        weight = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device="cpu")
        weight._is_param = True  # isinstance(weight, torch.nn.Parameter)
        weight._read = read
        weight._value = None
        return weight

    def value(self) -> torch.Tensor:
        """The tensor itself, without gradient."""
        if self._value is None:
            self._value = self._read()
        return self._value

    def __repr__(self, **_):
        state = "not read" if self._value is None else "read"
        return f"LazyWeight({tuple(self.shape)}, {self.dtype}, {state})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def plain(x):
            if isinstance(x, LazyWeight):
                return x.value()
            if isinstance(x, (list, tuple)):
                return type(x)(plain(i) for i in x)
            return x
        return function(*plain(args), **{k: plain(v) for k, v in (kwargs or {}).items()})


class WeightLoader:
    """The weights of a GGUF or safetensors model, as operators get them (`gguf_loader` of their constructor).

    Names are those of the Hugging Face checkpoint ("model.layers.0.self_attn.q_proj.weight"); a GGUF file's own names
    ("blk.0.attn_q.weight") are understood too.
    """

    def __init__(self, native):
        self.native = native
        self.tensor_device_map: dict[str, dict] = {}  # path → keyword arguments of its rule
        self._tensors = native.tensors()
        self._stored = {stored: name for name, (_, _, stored) in self._tensors.items()}

    def has_tensor(self, name: str) -> bool:
        return name in self._tensors or name in self._stored

    def tensor_names(self) -> list[str]:
        return list(self._tensors)

    def load_gguf_tensor(self, name: str, device: str = "cpu", target_dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor in its checkpoint shape, float32 unless asked otherwise. Raises NotFoundError."""
        name = self._stored.get(name, name)
        if name not in self._tensors:
            raise NotFoundError("the weights have no such tensor", name)
        out = torch.empty(self._tensors[name][0], dtype=torch.float32, device="cpu")
        self.native.read(name, out.view(-1))
        return out.to(device=device, dtype=target_dtype)

    def read_parameter(self, name: str, shape: torch.Size) -> torch.Tensor:
        """A parameter of a Transformers module as float32; stacked experts are put together from single ones.
        Raises NotFoundError, MismatchError."""
        parts = self.check_parameter(name, shape)
        if parts == [[name]]:
            value = self.load_gguf_tensor(name)
        else:
            value = torch.stack([torch.cat([self.load_gguf_tensor(n) for n in row]) for row in parts])
        return value.reshape(shape)

    def has_parameter(self, name: str, shape: torch.Size) -> bool:
        return any(all(self.has_tensor(n) for row in parts for n in row) for parts in self._parts_of(name, shape))

    def check_parameter(self, name: str, shape: torch.Size) -> list[list[str]]:
        """Raises as read_parameter; gives the names of the tensors that it puts together."""
        for parts in self._parts_of(name, shape):
            if all(self.has_tensor(n) for row in parts for n in row):
                break
        else:
            raise NotFoundError("the weights have no such tensor", name)
        shapes = [self._tensors[self._stored.get(n, n)][0] for row in parts for n in row]
        if sum(math.prod(s) for s in shapes) != shape.numel():
            raise MismatchError(f"its shape is {tuple(shape)} in the model, {shapes[0]} in the weights", name)
        return parts

    @staticmethod
    def _parts_of(name: str, shape: torch.Size) -> list[list[list[str]]]:
        """The ways in which a checkpoint may hold a parameter: rows of names to put together."""
        ways = [[[name]]]
        if name == "lm_head.weight":  # tied
            ways.append([["model.embed_tokens.weight"]])
        head, _, last = name.rpartition(".experts.")
        if head and last in ("gate_up_proj", "down_proj"):
            mixtral = head.removesuffix(".mlp") + ".block_sparse_moe"
            for block, names in ((head, ("gate_proj", "up_proj", "down_proj")), (mixtral, ("w1", "w3", "w2"))):
                wanted = names[:2] if last == "gate_up_proj" else names[2:]
                ways.append([[f"{block}.experts.{e}.{n}.weight" for n in wanted] for e in range(shape[0])])
        elif ".mlp.gate." in name:
            ways.append([[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")]])
        return ways


def lazy_parameter(loader: WeightLoader, name: str, meta: torch.Tensor) -> LazyWeight:
    """A parameter in place of a meta tensor, of its shape and type."""
    shape, dtype = meta.shape, meta.dtype
    return LazyWeight(shape, dtype, lambda: loader.read_parameter(name, shape).to(dtype))
