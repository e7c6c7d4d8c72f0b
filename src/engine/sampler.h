// Turns logits into a token: bias and penalties, temperature, top-k, typical, top-p, min-p, draw.
//
// Order: mask → logit_bias → repetition (Keskar et al. 2019), frequency and presence penalties over
// the last repeat_last_n tokens → top_k → temperature → typical_p (arXiv 2202.00666) → top_p (arXiv
// 1904.09751) → min_p (arXiv 2407.01082) → draw. temperature 0 is greedy: the largest logit after
// bias and penalties, the lowest id on ties. Same seed and logits give the same tokens on every
// machine. Thread rule: one Sampler per sequence.
#pragma once
#include <cstdint>
#include <map>
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

class Sampler {
 public:
  Sampler(const SamplingParams& params, std::int64_t vocab_size);
  /// `history` is the whole sequence so far. Returns id -1 when no finite logit is left.
  SampledToken sample(std::span<const float> logits, std::span<const std::int32_t> history,
                      const SampleOptions& options = {});
  std::uint64_t seed() const { return seed_; }  // the one in use

 private:
  struct Candidate {
    std::int32_t id;
    float logit;
    float probability;
  };
  static bool better(const Candidate& a, const Candidate& b);
  void penalize(std::span<const std::int32_t> history);
  void apply_mask(std::span<const std::uint32_t> mask);
  std::int32_t draw();
  void gather(std::size_t k);
  bool takes_best(const SampleOptions& options) const;
  void normalize();            // probabilities of the candidates from their logits
  void keep_mass(float mass);  // the first candidates that hold this probability
  void keep_typical();
  SamplingParams params_;
  std::uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<float> logits_;
  std::vector<Candidate> candidates_;
  std::map<std::int32_t, std::int32_t> counts_;
};

}  // namespace kt::engine
