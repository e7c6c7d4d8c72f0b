// Embeddings of texts: final hidden states, pooled and scaled to length 1.
//
// Thread rule: the model's own thread.
#pragma once
#include <cstdint>
#include <vector>

#include "session/session.h"

namespace kt::serve {

/// [n_texts][dimensions]; 0: as the model has. Throws as engine::Engine::embed.
std::vector<std::vector<float>> embeddings(session::Session& session,
                                           const std::vector<std::vector<std::int32_t>>& texts,
                                           std::int64_t dimensions);

}  // namespace kt::serve
