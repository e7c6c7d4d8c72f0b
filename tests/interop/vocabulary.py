"""Gives a GGUF file without a tokenizer a made-up one; tensors and all other metadata are copied as they are.

llama.cpp itself loads files whose tokenizer.ggml.model is "none"; node-llama-cpp asks for the BOS token of
every model and aborts the process on them.
"""
import pathlib

import gguf


def with_vocabulary(source: pathlib.Path, target: pathlib.Path, n_vocab: int) -> pathlib.Path:
    """Writes `target`: `source` with n_vocab byte-level BPE tokens, of which 1 is BOS and 2 EOS."""
    reader = gguf.GGUFReader(str(source))
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(str(target), arch)
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "tokenizer.")) or name == "general.architecture":
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=element)
    special = {0: "<unk>", 1: "<s>", 2: "</s>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([special.get(i, f"t{i}") for i in range(n_vocab)])
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
                            for i in range(n_vocab)])
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
