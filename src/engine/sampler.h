// Turns logits into a token: bias and penalties, temperature, top-k, typical, top-p, min-p, draw.
//
// Order: mask → logit_bias → repetition (Keskar et al. 2019), frequency and presence penalties over
// the last repeat_last_n tokens → top_k → temperature → typical_p (arXiv 2202.00666) → top_p (arXiv
// 1904.09751) → min_p (arXiv 2407.01082) → draw. temperature 0 is greedy: the largest logit after
// bias and penalties, the lowest id on ties. Same seed and logits give the same tokens on every
// machine, also where the logits are on a GPU and only a list of their largest is here
// (sampler_list.cc). Thread rule: one Sampler per sequence.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <vector>

namespace kt::engine {

struct SamplingParams {
  float temperature = 0.8f;         // 0: greedy
  std::int32_t top_k = 40;          // 0: off
  float top_p = 0.95f;              // 1: off
  float min_p = 0.05f;              // 0: off
  float typical_p = 1.0f;           // 1: off
  float repetition_penalty = 1.0f;  // 1: off
  float frequency_penalty = 0.0f;   // 0: off
  float presence_penalty = 0.0f;    // 0: off
  std::int32_t repeat_last_n = 64;  // tokens the penalties look back; -1: all
  std::map<std::int32_t, float> logit_bias;
  std::uint64_t seed = 0;  // 0: taken from the system's entropy
  /// Throws kUsage naming the first field out of range.
  void validate(std::int64_t vocab_size) const;
};

struct TokenLogprob {
  std::int32_t id = -1;
  float logprob = 0.0f;  // under softmax of the unmodified logits
};

struct SampledToken : TokenLogprob {
  std::vector<TokenLogprob> top;  // the most likely tokens, best first, when asked for
};

/// The token `id` with its log-probability under these logits, and the n_top most likely ones.
SampledToken with_logprobs(std::span<const float> logits, std::int32_t id, std::int32_t n_top);

/// What one token is to be, besides the parameters of its sequence.
struct SampleOptions {
  std::span<const std::uint32_t> mask;  // bit id % 32 of word id / 32: it may come; empty: all may
  std::int32_t n_top = 0;
  bool logprob = true;  // false: SampledToken::logprob stays 0, which saves a pass of exponentials
};

/// What is known of a row of finite logits without the row.
struct ShortList {
  std::span<const std::int32_t> ids;  // of the largest, largest first, of equals the lower id first
  std::span<const float> logits;      // theirs
  std::int64_t n_row = 0;             // logits of the row; as many as are listed: all are known
  double sum = 0.0;                   // Σ exp(l - logits[0]) over the row
  double scaled_sum = 0.0;            // Σ exp(Sampler::list_scale() · (l - logits[0]))
  double error = 0.0;                 // of the sums, as a share of them
};

class Sampler {
 public:
  Sampler(const SamplingParams& params, std::int64_t vocab_size);
  /// `history` is the whole sequence so far. Returns id -1 when no finite logit is left.
  SampledToken sample(std::span<const float> logits, std::span<const std::int32_t> history,
                      const SampleOptions& options = {});
  /// The token that the list's row gives; none, and nothing has changed, where that is not certain
  /// from the list alone. Log-probabilities have the error of the list's sum.
  std::optional<SampledToken> sample(const ShortList& list, std::span<const std::int32_t> history,
                                     const SampleOptions& options = {});
  float list_scale() const {
    return params_.temperature > 0.0f ? 1.0f / params_.temperature : 1.0f;
  }
  std::uint64_t seed() const { return seed_; }  // the one in use

 private:
  struct Candidate {
    std::int32_t id;
    float logit;
    float probability;
  };
  struct Range {
    double low = 0.0, high = 0.0;
  };
  static bool better(const Candidate& a, const Candidate& b);
  bool penalizes() const;
  void count(std::span<const std::int32_t> history);
  float penalized(float logit, std::int32_t count) const;
  void apply_mask(std::span<const std::uint32_t> mask);
  void gather(std::size_t k);
  std::int32_t draw();  // one of the candidates, all of which there are
  std::int32_t pick();  // by their probabilities as they are
  double uniform();
  bool takes_best(const SampleOptions& options) const;
  void normalize();            // probabilities of the candidates from their logits
  void keep_mass(float mass);  // the first candidates that hold this probability
  void keep_typical();
  void drop_unlikely();
  // Of a list (sampler_list.cc).
  std::optional<std::int32_t> choose(const ShortList& list, std::span<const std::int32_t> history,
                                     const SampleOptions& options);
  bool take_list(const ShortList& list, const SampleOptions& options, std::int64_t* n_lowered);
  double share(float logit, float of) const;
  Range whole_sum(const ShortList& list, bool masked, std::int64_t n_lowered) const;
  std::optional<std::int32_t> draw_first(Range whole);
  bool keep_mass(Range whole);
  bool drop_unlikely(Range whole);
  std::optional<std::int32_t> pick(Range whole);
  SamplingParams params_;
  std::uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<float> logits_;
  std::vector<Candidate> candidates_;
  std::vector<Candidate> uncertain_;  // listed, but there may be better ones that are not
  std::map<std::int32_t, std::int32_t> counts_;
};

}  // namespace kt::engine
