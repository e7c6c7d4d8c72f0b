"""Models of which a row is spoilt, so that what it is used for becomes NaN."""
import pathlib

import gguf

from support.models import tiny_moe_path

BAD_TOKEN = 1900


def write_nan_model(path: pathlib.Path, source: pathlib.Path | None = None, tensor_name: str = "token_embd.weight",
                    row: int = BAD_TOKEN) -> pathlib.Path:
    """A copy with a row of a matrix spoilt: as it is of the bundled model, of which any prompt with BAD_TOKEN in it ends
    in NaN, and no other."""
    source = source or tiny_moe_path()
    content = bytearray(source.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(source).tensors if t.name == tensor_name)
    at = int(tensor.data_offset) + row * tensor.n_bytes // (int(tensor.n_elements) // int(tensor.shape[0]))
    content[at:at + 4] = b"\xff\x7f" * 2  # NaN, as a block's scale in half precision and as values in bf16 and f32
    path.write_bytes(content)
    return path
