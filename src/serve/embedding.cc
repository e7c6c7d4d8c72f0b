#include "serve/embedding.h"

#include <cmath>

#include "base/error.h"

namespace kt::serve {

std::vector<std::vector<float>> embeddings(session::Session& session,
                                           const std::vector<std::vector<std::int32_t>>& texts,
                                           std::int64_t dimensions, const std::atomic<bool>& gone) {
  std::vector<std::vector<float>> all;
  for (const std::vector<std::int32_t>& tokens : texts) {
    if (gone) fail(ErrorCode::kCancelled, {}, "the client closed the connection");
    std::vector<float> v = session.engine().embed(tokens, engine::Engine::Pooling::kMean);
    if (dimensions > 0 && dimensions < static_cast<std::int64_t>(v.size()))
      v.resize(static_cast<std::size_t>(dimensions));
    double square = 0.0;
    for (const float x : v) square += static_cast<double>(x) * static_cast<double>(x);
    const double scale = square > 0 ? 1.0 / std::sqrt(square) : 0.0;
    for (float& x : v) x = static_cast<float>(static_cast<double>(x) * scale);
    all.push_back(std::move(v));
  }
  return all;
}

}  // namespace kt::serve
