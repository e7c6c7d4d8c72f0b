// Tokenizer and chat template of an opened model, whichever file they come from.
// Thread rule: pure.
#pragma once
#include <memory>

#include "io/weight_source.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace kt::session {

/// From tokenizer.json in the model's folder, or the vocabulary inside a GGUF file; null when there
/// is neither. Throws as text::Tokenizer does, kMismatch when it knows more tokens than the model.
std::unique_ptr<text::Tokenizer> open_tokenizer(const io::WeightSource& source);

/// Source text of the model's own chat template; empty when it has none.
std::string chat_template_source(const io::WeightSource& source);

/// The template of this file, the model's own for an empty name; null when it has none. Throws as
/// text::ChatTemplate::compile.
std::unique_ptr<text::ChatTemplate> open_chat_template(const io::WeightSource& source,
                                                       const std::string& file);

}  // namespace kt::session
