// Embeddings of texts: final hidden states, pooled and scaled to length 1.
//
// Thread rule: the model's own thread.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "session/session.h"

namespace kt::serve {

/// [n_texts][dimensions]; 0: as the model has. Throws as engine::Engine::embed, kCancelled when
/// `gone` becomes true.
std::vector<std::vector<float>> embeddings(session::Session& session,
                                           const std::vector<std::vector<std::int32_t>>& texts,
                                           std::int64_t dimensions, const std::atomic<bool>& gone);

}  // namespace kt::serve
