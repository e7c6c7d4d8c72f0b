// Embeddings of texts, one after the other: final hidden states, pooled and scaled to length 1.
//
// Thread rule: step on the model's own thread; one thread at a time.
#pragma once
#include <cstdint>
#include <vector>

#include "session/session.h"

namespace kt::serve {

struct Embedding {
  std::vector<std::vector<std::int32_t>> texts;  // their tokens
  std::int64_t dimensions = 0;                   // 0: as the model has
  std::vector<std::vector<float>> vectors;       // of those done

  /// Computes the next one; whether there are more. Throws as engine::Engine::embed.
  bool step(session::Session& session);
  std::size_t n_tokens() const;
};

}  // namespace kt::serve
