// The token of a row of which only the largest logits are known. What is listed and still better
// than the last of the list after bias and penalties is known to be first; all others are worse.
// Where the choice depends on what all candidates' shares sum up to, that sum is known within a
// range, and so is each probability; a choice that differs within the range is left to the row.
//
//   full row:  p = float(share / Σ shares), summed up in order, against top_p, min_p or the draw
//   list:      p in [float(share / high), float(share / low)]: both ends must decide alike
//
// Rounding is monotonic, so that sums of the ends enclose the full row's sum to the last bit.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/sampler.h"

namespace kt::engine {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr double kRounding = 1e-9;  // of sums of up to a million doubles, with much to spare

bool allowed(std::span<const std::uint32_t> mask, std::int32_t id) {
  const auto i = static_cast<std::size_t>(id);
  return mask.empty() || (i / 32 < mask.size() && (mask[i / 32] >> (i % 32) & 1u) != 0);
}

bool is_whole(const ShortList& list) {
  return static_cast<std::int64_t>(list.ids.size()) == list.n_row;
}

}  // namespace

std::optional<SampledToken> Sampler::sample(const ShortList& list,
                                            std::span<const std::int32_t> history,
                                            const SampleOptions& options) {
  const auto n_top = static_cast<std::size_t>(options.n_top);
  if (list.ids.empty() || (n_top > list.ids.size() && !is_whole(list))) return std::nullopt;
  const auto id = takes_best(options) ? list.ids.front() : choose(list, history, options);
  if (!id) return std::nullopt;
  SampledToken token;
  token.id = *id;
  if (*id < 0 || (!options.logprob && n_top == 0)) return token;
  const double shift = double{list.logits.front()} + std::log(list.sum);
  const auto of = [&](std::size_t i) {
    return TokenLogprob{list.ids[i], static_cast<float>(double{list.logits[i]} - shift)};
  };
  const auto at = std::find(list.ids.begin(), list.ids.end(), *id) - list.ids.begin();
  token.logprob = of(static_cast<std::size_t>(at)).logprob;
  for (std::size_t i = 0; i < std::min(n_top, list.ids.size()); ++i) token.top.push_back(of(i));
  return token;
}

// -1: none may come.
std::optional<std::int32_t> Sampler::choose(const ShortList& list,
                                            std::span<const std::int32_t> history,
                                            const SampleOptions& options) {
  std::int64_t n_lowered = 0;
  count(history);
  if (!take_list(list, options, &n_lowered)) return std::nullopt;
  const auto top_k = static_cast<std::size_t>(params_.top_k);
  const bool enough = is_whole(list) || (top_k != 0 && candidates_.size() >= top_k);
  if (top_k != 0 && candidates_.size() > top_k) candidates_.resize(top_k);
  if (candidates_.empty()) return enough ? std::optional(-1) : std::nullopt;
  if (params_.temperature == 0.0f) return candidates_.front().id;
  if (enough) return draw();
  return draw_first(whole_sum(list, !options.mask.empty(), n_lowered));
}

// The listed tokens that may come, with their bias and penalties, best first, in two parts. False
// when one that is not listed may have risen; others may have come down.
bool Sampler::take_list(const ShortList& list, const SampleOptions& options,
                        std::int64_t* n_lowered) {
  candidates_.clear();
  uncertain_.clear();
  for (std::size_t i = 0; i < list.ids.size(); ++i)
    candidates_.push_back({list.ids[i], list.logits[i], 0.0f});
  const auto find = [&](std::int32_t id) {
    return std::find_if(candidates_.begin(), candidates_.end(),
                        [id](const Candidate& c) { return c.id == id; });
  };
  const Candidate last = candidates_.back();
  bool risen = false;
  for (const auto& [id, bias] : params_.logit_bias) {
    if (const auto c = find(id); c != candidates_.end()) {
      c->logit += bias;
    } else if (allowed(options.mask, id)) {
      risen |= bias > 0.0f;
      ++*n_lowered;
    }
  }
  for (const auto& [id, n] : counts_) {
    if (const auto c = find(id); c != candidates_.end()) {
      c->logit = penalized(c->logit, n);
    } else if (allowed(options.mask, id)) {
      risen |= params_.repetition_penalty < 1.0f || penalized(0.0f, n) > 0.0f;
      ++*n_lowered;
    }
  }
  if (risen) return false;
  for (Candidate& c : candidates_) {
    c.logit = std::isnan(c.logit) ? kNever : std::min(c.logit, std::numeric_limits<float>::max());
  }
  std::erase_if(candidates_, [&](const Candidate& c) {
    return !(c.logit > kNever) || !allowed(options.mask, c.id);
  });
  std::sort(candidates_.begin(), candidates_.end(), better);
  if (is_whole(list)) return true;
  const auto end = std::find_if(candidates_.begin(), candidates_.end(),
                                [&](const Candidate& c) { return better(last, c); });
  uncertain_.assign(end, candidates_.end());
  candidates_.erase(end, candidates_.end());
  return true;
}

// As normalize() has it.
double Sampler::share(float logit, float of) const {
  return std::exp((double{logit} - of) / static_cast<double>(params_.temperature));
}

// What the shares of all candidates sum up to, as parts of the first one's.
Sampler::Range Sampler::whole_sum(const ShortList& list, bool masked,
                                  std::int64_t n_lowered) const {
  const float first = candidates_.front().logit, last = list.logits.back();
  double known = 0.0, uncertain = 0.0, listed = 0.0;
  for (const Candidate& c : candidates_) known += share(c.logit, first);
  for (const Candidate& c : uncertain_) uncertain += share(c.logit, first);
  for (const float l : list.logits) listed += share(l, list.logits.front());
  // What is not listed: of the row's largest, then of the first candidate.
  const double unit = share(list.logits.front(), first);
  const double at_most = share(last, list.logits.front());  // each of them
  const double rest = list.scaled_sum - listed, error = list.scaled_sum * list.error;
  Range others;
  others.high = std::max(rest + error, 0.0) * unit + uncertain;
  if (params_.top_k != 0) {
    const auto n = static_cast<double>(params_.top_k) - static_cast<double>(candidates_.size());
    others.high = std::min(others.high, n * at_most * unit);
  } else {
    if (!masked) {
      others.low = std::max(rest - error - static_cast<double>(n_lowered) * at_most, 0.0) * unit;
    }
    others.low += uncertain;
  }
  return {(known + others.low) * (1.0 - kRounding), (known + others.high) * (1.0 + kRounding)};
}

// draw() where more candidates follow.
std::optional<std::int32_t> Sampler::draw_first(Range whole) {
  if (params_.typical_p < 1.0f || !std::isfinite(whole.high) || !(whole.low > 0.0))
    return std::nullopt;
  if (params_.top_p < 1.0f) {
    if (!keep_mass(whole)) return std::nullopt;
    if (params_.min_p > 0.0f) drop_unlikely();
    return pick();
  }
  if (params_.min_p == 0.0f) return pick(whole);
  if (!drop_unlikely(whole)) return std::nullopt;
  return pick();
}

// False when where to cut is not certain.
bool Sampler::keep_mass(Range whole) {
  const float first = candidates_.front().logit;
  const double mass = static_cast<double>(params_.top_p);
  Range sum;
  std::size_t n = 0;
  while (n < candidates_.size() && (n == 0 || sum.high < mass)) {
    const double s = share(candidates_[n++].logit, first);
    sum.low += static_cast<double>(static_cast<float>(s / whole.high));
    sum.high += static_cast<double>(static_cast<float>(s / whole.low));
  }
  if (sum.low < mass) return false;
  candidates_.resize(n);
  normalize();
  return true;
}

// False when it is not certain which, or when the last one stays, as those behind it may.
bool Sampler::drop_unlikely(Range whole) {
  const float first = candidates_.front().logit;
  const auto probability = [&](const Candidate& c, double of) {
    return static_cast<float>(share(c.logit, first) / of);
  };
  const float least_low = params_.min_p * probability(candidates_.front(), whole.high);
  const float least_high = params_.min_p * probability(candidates_.front(), whole.low);
  const auto end = std::find_if(candidates_.begin(), candidates_.end(), [&](const Candidate& c) {
    return probability(c, whole.high) < least_high;
  });
  if (end == candidates_.end() || !(probability(*end, whole.low) < least_low)) return false;
  candidates_.erase(end, candidates_.end());
  normalize();
  return true;
}

std::optional<std::int32_t> Sampler::pick(Range whole) {
  const auto before = random_;
  const double u = uniform();
  const float first = candidates_.front().logit;
  Range sum;
  for (const Candidate& c : candidates_) {
    const double s = share(c.logit, first);
    sum.low += static_cast<double>(static_cast<float>(s / whole.high));
    sum.high += static_cast<double>(static_cast<float>(s / whole.low));
    if (u >= sum.high) continue;
    if (u < sum.low) return c.id;
    break;
  }
  random_ = before;
  return std::nullopt;
}

}  // namespace kt::engine
