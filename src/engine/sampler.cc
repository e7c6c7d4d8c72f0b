#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace kt::engine {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void in_range(bool ok, const char* field, double value, const char* wanted) {
  if (!ok) fail(ErrorCode::kUsage, field, "{} is out of range; {} is wanted", value, wanted);
}

SampledToken finished(std::int32_t id, std::span<const float> logits,
                      const SampleOptions& options) {
  if (id >= 0 && (options.logprob || options.n_top > 0))
    return with_logprobs(logits, id, options.n_top);
  SampledToken token;
  token.id = id;
  return token;
}

}  // namespace

SampledToken with_logprobs(std::span<const float> logits, std::int32_t id, std::int32_t n_top) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float l : logits) sum += static_cast<double>(std::exp(l - largest));
  const double shift = double{largest} + std::log(sum);
  const auto of = [&](std::int32_t i) {
    const double logit = double{logits[static_cast<std::size_t>(i)]};
    return TokenLogprob{i, static_cast<float>(logit - shift)};
  };
  SampledToken token{of(id), {}};
  if (n_top == 0) return token;
  // A heap with the worst on top; of equals the lower id is better.
  const auto better = [&](const TokenLogprob& a, const TokenLogprob& b) {
    const float x = logits[static_cast<std::size_t>(a.id)];
    const float y = logits[static_cast<std::size_t>(b.id)];
    return x > y || (x == y && a.id < b.id);
  };
  const auto n = std::min(static_cast<std::size_t>(n_top), logits.size());
  token.top.reserve(n + 1);
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(logits.size()); ++i) {
    const bool full = token.top.size() == n;
    if (full && !better({i, 0.0f}, token.top.front())) continue;
    token.top.push_back(of(i));
    std::push_heap(token.top.begin(), token.top.end(), better);
    if (!full) continue;
    std::pop_heap(token.top.begin(), token.top.end(), better);
    token.top.pop_back();
  }
  std::sort(token.top.begin(), token.top.end(), better);
  return token;
}

void SamplingParams::validate(std::int64_t vocab_size) const {
  in_range(temperature >= 0.0f && temperature <= 100.0f, "temperature", temperature, "0 to 100");
  in_range(top_k >= 0, "top_k", top_k, "0 (off) or more");
  in_range(top_p >= 0.0f && top_p <= 1.0f, "top_p", top_p, "0 to 1");
  in_range(min_p >= 0.0f && min_p <= 1.0f, "min_p", min_p, "0 to 1");
  in_range(typical_p >= 0.0f && typical_p <= 1.0f, "typical_p", typical_p, "0 to 1");
  in_range(repetition_penalty > 0.0f && repetition_penalty <= 100.0f, "repetition_penalty",
           repetition_penalty, "above 0, at most 100");
  in_range(std::abs(frequency_penalty) <= 100.0f, "frequency_penalty", frequency_penalty,
           "-100 to 100");
  in_range(std::abs(presence_penalty) <= 100.0f, "presence_penalty", presence_penalty,
           "-100 to 100");
  in_range(repeat_last_n >= -1, "repeat_last_n", repeat_last_n, "-1 (all) or more");
  for (const auto& [id, bias] : logit_bias) {
    in_range(id >= 0 && id < vocab_size, "logit_bias", id, "a token of the vocabulary");
    in_range(!std::isnan(bias), "logit_bias", bias, "a number");
  }
}

// The first of the largest logits; -1 when none is finite or one is NaN.
static std::int32_t best_of(std::span<const float> logits) {
  constexpr std::size_t kLanes = 16;  // independent, so that they become vectors
  float best[kLanes];
  float sum[kLanes] = {};  // NaN where a NaN was
  std::fill(best, best + kLanes, kNever);
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float l = logits[i + j];
      best[j] = l > best[j] ? l : best[j];
      sum[j] += l * 0.0f;
    }
  }
  float largest = kNever, nan = 0.0f;
  for (std::size_t j = 0; j < kLanes; ++j) {
    largest = std::max(largest, best[j]);
    nan += std::isnan(sum[j]) ? 1.0f : 0.0f;
  }
  for (; i < logits.size(); ++i) {
    largest = std::max(largest, logits[i]);
    nan += std::isnan(logits[i]) ? 1.0f : 0.0f;
  }
  if (nan > 0.0f) {  // infinities times 0 are NaN too
    for (const float l : logits) {
      if (std::isnan(l)) return -1;
    }
  }
  if (largest == kNever) return -1;
  return static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), largest) -
                                   logits.begin());
}

Sampler::Sampler(const SamplingParams& params, std::int64_t vocab_size)
    : params_(params), seed_(params.seed) {
  params_.validate(vocab_size);
  if (seed_ == 0) {
    std::random_device entropy;
    seed_ = (static_cast<std::uint64_t>(entropy()) << 32 | entropy()) | 1;
  }
  random_.seed(seed_);
}

bool Sampler::penalizes() const {
  return params_.repetition_penalty != 1.0f || params_.frequency_penalty != 0.0f ||
         params_.presence_penalty != 0.0f;
}

// How often each token comes among those that the penalties look back to.
void Sampler::count(std::span<const std::int32_t> history) {
  counts_.clear();
  if (!penalizes()) return;
  if (params_.repeat_last_n >= 0) {
    const auto n = std::min(history.size(), static_cast<std::size_t>(params_.repeat_last_n));
    history = history.last(n);
  }
  for (const std::int32_t id : history) ++counts_[id];
}

float Sampler::penalized(float logit, std::int32_t count) const {
  logit = logit > 0.0f ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
  return logit - (static_cast<float>(count) * params_.frequency_penalty + params_.presence_penalty);
}

void Sampler::keep_typical() {
  double entropy = 0.0;
  for (const Candidate& c : candidates_) {
    if (c.probability > 0.0f) entropy -= double{c.probability} * std::log(double{c.probability});
  }
  const auto distance = [&](const Candidate& c) {
    return c.probability > 0.0f ? std::abs(-std::log(double{c.probability}) - entropy)
                                : std::numeric_limits<double>::infinity();
  };
  std::stable_sort(
      candidates_.begin(), candidates_.end(),
      [&](const Candidate& a, const Candidate& b) { return distance(a) < distance(b); });
  keep_mass(params_.typical_p);
  std::sort(candidates_.begin(), candidates_.end(), better);
}

void Sampler::keep_mass(float mass) {
  double sum = 0.0;
  std::size_t n = 0;
  while (n < candidates_.size() && (n == 0 || sum < static_cast<double>(mass))) {
    sum += static_cast<double>(candidates_[n++].probability);
  }
  candidates_.resize(n);
  normalize();
}

void Sampler::normalize() {
  float largest = kNever;
  for (const Candidate& c : candidates_) largest = std::max(largest, c.logit);
  const double temperature = static_cast<double>(params_.temperature);
  const auto share = [&](const Candidate& c) {
    return std::exp((double{c.logit} - largest) / temperature);
  };
  double sum = 0.0;
  for (const Candidate& c : candidates_) sum += share(c);
  for (Candidate& c : candidates_) c.probability = static_cast<float>(share(c) / sum);
}

bool Sampler::better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The k best, best first. A heap with the worst on top, which few logits get past.
void Sampler::gather(std::size_t k) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    const float logit = logits_[i];
    if (!(logit > kNever)) continue;
    if (candidates_.size() == k) {
      if (!(logit > candidates_.front().logit)) continue;  // of equals the first stay
      std::pop_heap(candidates_.begin(), candidates_.end(), better);
      candidates_.pop_back();
    }
    candidates_.push_back({static_cast<std::int32_t>(i), logit, 0.0f});
    if (k < logits_.size()) std::push_heap(candidates_.begin(), candidates_.end(), better);
  }
  std::sort(candidates_.begin(), candidates_.end(), better);
}

void Sampler::drop_unlikely() {
  const float least = params_.min_p * candidates_.front().probability;
  std::erase_if(candidates_, [&](const Candidate& c) { return c.probability < least; });
  normalize();
}

// In [0, 1), from 53 random bits: the same on every standard library.
double Sampler::uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

std::int32_t Sampler::pick() {
  const double u = uniform();
  double sum = 0.0;
  for (const Candidate& c : candidates_) {
    sum += static_cast<double>(c.probability);
    if (u < sum) return c.id;
  }
  return candidates_.back().id;
}

std::int32_t Sampler::draw() {
  if (candidates_.empty()) return -1;
  normalize();
  if (params_.typical_p < 1.0f) keep_typical();
  if (params_.top_p < 1.0f) keep_mass(params_.top_p);
  if (params_.min_p > 0.0f) drop_unlikely();
  return pick();
}

void Sampler::apply_mask(std::span<const std::uint32_t> mask) {
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    const bool allowed = i / 32 < mask.size() && (mask[i / 32] >> (i % 32) & 1u) != 0;
    if (!allowed) logits_[i] = kNever;
  }
}

// Whether the logits decide as they are.
bool Sampler::takes_best(const SampleOptions& options) const {
  return params_.temperature == 0.0f && params_.logit_bias.empty() && options.mask.empty() &&
         !penalizes();
}

SampledToken Sampler::sample(std::span<const float> logits, std::span<const std::int32_t> history,
                             const SampleOptions& options) {
  if (takes_best(options)) {
    return finished(best_of(logits), logits, options);
  }
  logits_.assign(logits.begin(), logits.end());
  for (const float l : logits_) {
    if (std::isnan(l)) return {};
  }
  if (!options.mask.empty()) apply_mask(options.mask);
  for (const auto& [id, bias] : params_.logit_bias) logits_[static_cast<std::size_t>(id)] += bias;
  count(history);
  for (const auto& [id, n] : counts_) {
    float& logit = logits_[static_cast<std::size_t>(id)];
    logit = penalized(logit, n);
  }
  constexpr float kMost = std::numeric_limits<float>::max();
  for (float& l : logits_)
    l = std::isnan(l) ? kNever : std::min(l, kMost);  // inf - inf; a bias of inf
  if (params_.temperature == 0.0f) return finished(best_of(logits_), logits, options);
  gather(params_.top_k != 0 ? static_cast<std::size_t>(params_.top_k) : logits_.size());
  return finished(draw(), logits, options);
}

}  // namespace kt::engine
