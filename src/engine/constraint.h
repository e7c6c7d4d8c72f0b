// What binds the tokens of one request: before each token it says which may come, after it which
// came.
//
//   step → logits → fill(mask) → sample within the mask → accept(token) → …
//
// Thread rule: the thread that drives the Engine.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace kt::engine {

class TokenConstraint {
 public:
  enum class State {
    kFree,      // any token may come; the mask does not matter
    kBound,     // a token of the mask must come
    kComplete,  // nothing may come: the reply ends here as by a stop token
    kFailed     // error() says why; ends the request
  };
  virtual ~TokenConstraint() = default;
  /// For the next token: bit id % 32 of word id / 32 is set when the token may come.
  virtual State fill(std::span<std::uint32_t> mask) noexcept = 0;
  /// A token came that is no stop token; what holds after it.
  virtual State accept(std::int32_t token) noexcept = 0;
  virtual std::string error() const = 0;
};

}  // namespace kt::engine
