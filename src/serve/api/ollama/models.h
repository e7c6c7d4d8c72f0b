// What Ollama's clients are told of a model.
//
// Thread rule: any thread.
#pragma once
#include "serve/models.h"

namespace kt::serve::ollama {

/// Its entry in /api/tags; little is known of one that is not open.
Json tag_json(const Models::State& state);
/// The entry of an open one in /api/ps.
Json loaded_json(const Models::State& state);
/// The answer of /api/show.
Json show_json(const ModelFacts& facts);

}  // namespace kt::serve::ollama
