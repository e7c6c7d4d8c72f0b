// What Ollama's clients are told of a model, and the names that they call it by.
//
// Thread rule: any thread.
#pragma once
#include <string>
#include <string_view>

#include "serve/served_model.h"

namespace kt::serve::ollama {

/// Whether a client's name means this model: case, the tag ":latest" and the parts of a name that
/// stand for Ollama's own library do not matter.
bool same_name(std::string_view asked, std::string_view id);

/// Its entry in /api/tags.
Json tag_json(ServedModel& model);
/// Its entry in /api/ps: loaded, and for as long as the server runs.
Json loaded_json(ServedModel& model);
/// The answer of /api/show.
Json show_json(ServedModel& model);

}  // namespace kt::serve::ollama
