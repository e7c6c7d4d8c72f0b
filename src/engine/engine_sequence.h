// A request inside the engine, and what stays of it. Included by engine*.cc alone. Thread rule: the
// engine's thread.
#pragma once
#include "engine/engine.h"

namespace kt::engine {

// A request from submit() on, and its cached tokens after it ended.
struct Engine::Sequence {
  RequestId id = 0;
  Request request;
  Sampler sampler;
  Result result;
  std::vector<std::int32_t> tokens;  // prompt and generated
  std::int64_t n_cached = 0;         // tokens whose keys and values are in the pages
  std::vector<std::int32_t> draft;   // guessed tokens behind them, in this step
  Acceptance acceptance;
  PageTable pages;
  std::vector<Sha256> page_keys;    // in the page store, of whole pages from the first on
  std::vector<std::uint32_t> mask;  // of the constraint
  enum class State { kQueued, kRunning, kFinished } state = State::kQueued;
  std::uint64_t last_used = 0;

  Sequence(RequestId id_in, Request request_in, std::int64_t vocab_size)
      : id(id_in), request(std::move(request_in)), sampler(request.sampling, vocab_size) {
    tokens = request.prompt;
    result.n_prompt = static_cast<std::int64_t>(tokens.size());
    if (request.constraint != nullptr)
      mask.resize((static_cast<std::size_t>(vocab_size) + 31) / 32);
  }
  std::int64_t n_tokens() const { return static_cast<std::int64_t>(tokens.size()); }
  bool in_prompt() const { return n_cached < result.n_prompt; }
  bool cancelled() const {
    return request.cancelled != nullptr && request.cancelled->load(std::memory_order_relaxed);
  }
};

}  // namespace kt::engine
