// Speculation from the text itself (prompt lookup; arXiv 2304.04487): the next tokens are guessed
// to be those that followed the last few tokens where these stood before. A step computes the
// guess's rows beside the sequence's own; tokens are sampled from the first rows on as long as each
// is what was guessed, so what comes out is what would have come without.
//
//   Drafts::choose(tokens) → guess, of the length that pays best → step → Drafts::record(…)
//
// Whether it pays is measured: seconds of steps by their rows, and how often guesses of a sequence
// were right. Where it does not, guesses are empty. Thread rule: one thread.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace kt::engine {

/// Up to `most` tokens that followed the latest earlier place of the last four, three or two
/// tokens; empty when there is none.
std::vector<std::int32_t> look_up(std::span<const std::int32_t> tokens, std::int64_t most);

/// How often guesses of one sequence were right lately.
class Acceptance {
 public:
  void record(std::int64_t n_drafted, std::int64_t n_accepted);
  /// Of the next token of a guess.
  double probability() const { return (hits_ + 2.0) / (trials_ + 3.0); }
  /// Makes what is known weigh less, so that a sequence without guesses gets another try.
  void fade();

 private:
  double hits_ = 0.0, trials_ = 0.0;
};

class Drafts {
 public:
  static constexpr std::int64_t kMostRows = 31;  // of a step with guesses; below tile kernels
  static constexpr std::int64_t kMost = 8;       // guessed tokens of a sequence

  /// A guess for a sequence in a step that has n_rows rows without it, each of which makes a token
  /// or, of other guesses, may. At most `most` tokens.
  std::vector<std::int32_t> choose(std::span<const std::int32_t> tokens, Acceptance& acceptance,
                                   std::int64_t n_rows, std::int64_t most) const;
  /// What a step without prompt rows took.
  void record(std::int64_t n_rows, double seconds);

 private:
  double seconds(std::int64_t n_rows) const;
  struct Cost {
    double seconds = 0.0;
    std::int64_t step = 0;  // when it was measured last; 0: never
  };
  std::array<Cost, kMostRows + 1> costs_;
  std::int64_t step_ = 0;
};

}  // namespace kt::engine
