"""A model that computes NaN for one token: the bundled one with that row of its embedding spoilt."""
import pathlib

import gguf

from support.models import tiny_moe_path

BAD_TOKEN = 1900


def write_nan_model(path: pathlib.Path) -> pathlib.Path:
    """The bundled model, of which any prompt with BAD_TOKEN in it ends in NaN, and no other."""
    content = bytearray(tiny_moe_path().read_bytes())
    reader = gguf.GGUFReader(tiny_moe_path())
    tensor = next(t for t in reader.tensors if t.name == "token_embd.weight")
    row_bytes = tensor.n_bytes // int(tensor.shape[1])
    at = int(tensor.data_offset) + BAD_TOKEN * row_bytes
    content[at:at + 2] = b"\x00\x7e"  # the block's scale, in half precision
    path.write_bytes(content)
    return path
