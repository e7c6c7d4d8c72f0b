#include "serve/ask.h"

namespace kt::serve {

text::GrammarSpec json_grammar(const Json* schema) {
  if (schema == nullptr) return {text::GrammarKind::kJsonObject, {}};
  return {text::GrammarKind::kJsonSchema, wire(*schema)};
}

}  // namespace kt::serve
