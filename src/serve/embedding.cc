#include "serve/embedding.h"

#include <cmath>

namespace kt::serve {

bool Embedding::step(session::Session& session) {
  if (vectors.size() == texts.size()) return false;
  std::vector<float> v =
      session.engine().embed(texts[vectors.size()], engine::Engine::Pooling::kMean);
  if (dimensions > 0 && dimensions < static_cast<std::int64_t>(v.size()))
    v.resize(static_cast<std::size_t>(dimensions));
  double square = 0.0;
  for (const float x : v) square += static_cast<double>(x) * static_cast<double>(x);
  const double scale = square > 0 ? 1.0 / std::sqrt(square) : 0.0;
  for (float& x : v) x = static_cast<float>(static_cast<double>(x) * scale);
  vectors.push_back(std::move(v));
  return vectors.size() < texts.size();
}

std::size_t Embedding::n_tokens() const {
  std::size_t n = 0;
  for (const auto& text : texts) n += text.size();
  return n;
}

}  // namespace kt::serve
