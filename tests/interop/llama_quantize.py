"""llama.cpp's own choice of element formats: its quantiser's dry run, through the library that node-llama-cpp ships.

    python llama_quantize.py MODEL.gguf IMATRIX|- FILE_TYPE…     (FILE_TYPE: numbers of general.file_type)

Prints JSON: per file type {"formats": {tensor: format or null where the tensor stays as it is}, "needs_imatrix"}
or {"refused": message}.
A process of its own, since the library aborts on some errors. The struct is llama.h's of the locked version.
"""
import ctypes
import json
import os
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent


class ImatrixEntry(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]


class Params(ctypes.Structure):
    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int), ("output_tensor_type", ctypes.c_int),
                ("token_embedding_type", ctypes.c_int), ("allow_requantize", ctypes.c_bool),
                ("quantize_output_tensor", ctypes.c_bool), ("only_copy", ctypes.c_bool), ("pure", ctypes.c_bool),
                ("keep_split", ctypes.c_bool), ("dry_run", ctypes.c_bool), ("imatrix", ctypes.c_void_p),
                ("kv_overrides", ctypes.c_void_p), ("tt_overrides", ctypes.c_void_p),
                ("prune_layers", ctypes.c_void_p), ("max_buf_size", ctypes.c_size_t)]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
# "[   3/  40] blk.0.attn_q.weight - [  256,   256,     1,     1], type = f16, size = 1 MiB -> 1 MiB (q4_K)"
TENSOR = re.compile(r"\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +\S+, size = [^\n(]*(?:\((\w+)\))?\n")


def library() -> pathlib.Path | None:
    folders = [HERE, pathlib.Path(os.environ.get("KT_TEST_CACHE", HERE)) / "interop"]
    for folder in folders:
        found = sorted(folder.glob("node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libllama.v*.so"))
        if found:
            return found[0]
    return None


def read_imatrix(path: str) -> ctypes.Array:
    """Entries of ones from JSON {tensor: number of values}, ended by a null name."""
    sizes = json.loads(pathlib.Path(path).read_text())
    entries = (ImatrixEntry * (len(sizes) + 1))()
    for i, (name, size) in enumerate(sizes.items()):
        entries[i] = ImatrixEntry(name.encode(), (ctypes.c_float * size)(*[1.0] * size), size)
    return entries


def main(model: str, imatrix: str, *file_types: str) -> None:
    llama = ctypes.CDLL(str(library()))
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
    llama.llama_model_quantize.restype = ctypes.c_uint32
    pieces: list[str] = []
    log = LOG(lambda level, text, user: pieces.append(text.decode("utf-8", "replace")))
    llama.llama_log_set(log, None)
    entries = None if imatrix == "-" else read_imatrix(imatrix)
    out = {}
    for file_type in file_types:
        params = llama.llama_model_quantize_default_params()
        assert params.quantize_output_tensor and not params.dry_run and params.nthread == 0, "llama.h has changed"
        params.ftype, params.dry_run = int(file_type), True
        if entries is not None:
            params.imatrix = ctypes.addressof(entries)
        pieces.clear()
        failed = llama.llama_model_quantize(model.encode(), b"/dev/null", ctypes.byref(params))
        text = "".join(pieces)
        if failed:
            out[file_type] = {"refused": text[text.rfind("failed to quantize"):].strip()}
            continue
        out[file_type] = {"formats": dict(m.groups() for m in TENSOR.finditer(text)),
                          "needs_imatrix": "will require an imatrix" in text}
    print(json.dumps(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
