// Tokenizer and chat template of a model, written into a GGUF header.
// Thread rule: pure.
#pragma once
#include "io/gguf_writer.h"
#include "io/weight_source.h"

namespace kt::session {

/// tokenizer.* keys from tokenizer.json (byte-level BPE) and the chat template beside the weights;
/// model "none" when there is no tokenizer. Throws kUnsupported for other kinds of tokenizer and
/// for pre-tokenizers that GGUF has no name for, kBadFile for a damaged tokenizer.json.
void export_text(const io::WeightSource& source, io::GgufWriter& writer);

}  // namespace kt::session
