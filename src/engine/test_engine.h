// Engines over the toy model, for tests of the generate loop.
// Thread rule: one thread.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/test_toy_model.h"

namespace kt::engine {

inline constexpr std::int64_t kVocab = ToyModel::kVocab;

class EngineTest : public testing::Test {
 protected:
  std::unique_ptr<Engine> make(std::int64_t context = 512, std::int64_t chunk = 32,
                               std::int64_t kv_tokens = 0, EngineOptions options = {}) {
    options.context = context;
    options.chunk_size = chunk;
    options.kv_tokens = kv_tokens;
    options.kv_format = tensor::Format::kF32;
    auto engine = std::make_unique<Engine>(model_, cpu_, options);
    model_.n_rows = model_.largest_batch = 0;
    return engine;
  }

  static Request request(std::int64_t n_prompt, std::int64_t max_tokens, std::int32_t salt = 0) {
    Request r;
    for (std::int64_t i = 0; i < n_prompt; ++i) {
      r.prompt.push_back(static_cast<std::int32_t>((i * 7 + salt * 13 + i * i % 5) % kVocab));
    }
    r.sampling.temperature = 0.0f;
    r.max_tokens = max_tokens;
    return r;
  }

  std::vector<std::int32_t> alone(const Request& r) { return make()->generate(r).tokens; }

  ToyModel model_;
  backend::Cpu cpu_{1, {}, 0, backend::ActPolicy::kF32};
};

}  // namespace kt::engine
