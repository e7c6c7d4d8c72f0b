#include <algorithm>
#include <cmath>

#include "formats/codec_util.h"
#include "formats/iq_grids.h"
#include "formats/iq_neighbours.h"
#include "formats/iq_quants.h"
#include "formats/scale_search.h"

namespace kt::formats {
namespace {

constexpr int kSuper = 256;

enum class Signs { kNone, kEven, kFree };

/// What differs between the grid formats. Values of a sub-block are e * levels[set][number],
/// e = d * unit * (s + 0.5).
struct GridSpec {
  const GridNeighbours* neighbours;
  int group;  // values per entry
  int n_levels;
  float levels[2][8];
  int n_sets;    // 2: IQ1's positive and negative delta
  int set_span;  // values that share a level set
  int sub;       // values per scale
  int s_max;
  float unit;
  Signs signs;
};

struct GridCodes {
  float d = 0.0f;
  std::uint16_t code[64] = {};  // per group
  std::uint8_t sign[32] = {};   // per 8 values
  std::uint8_t s[16] = {};      // per sub-block
  std::uint8_t set[32] = {};    // per set_span
};

/// One choice for a sub-block: codes and the sums that give its best scale.
struct SubChoice {
  std::uint16_t code[8] = {};
  std::uint8_t set[4] = {};
  double cost = 0.0;
  double xl = 0.0, ll = 0.0;  // Σ w x level, Σ w level²
};

/// Cheapest of the entries near the point that the values of a group round to, at scale e.
template <int kGroup>
std::uint16_t nearest_entry(const GridSpec& spec, int set, const float* x, const float* w, float e,
                            float* cost) {
  const float* levels = spec.levels[set];
  float middle[7], scaled[8];
  for (int l = 0; l < spec.n_levels; ++l) scaled[l] = e * levels[l];
  for (int l = 0; l + 1 < spec.n_levels; ++l) middle[l] = 0.5f * (scaled[l] + scaled[l + 1]);
  int point = 0;
  for (int i = kGroup; i-- > 0;) {
    int number = 0;
    for (int l = 0; l + 1 < spec.n_levels; ++l) number += x[i] > middle[l] ? 1 : 0;
    point = point * spec.n_levels + number;
  }
  float table[kGroup][8];  // cost of every level of every value
  for (int i = 0; i < kGroup; ++i) {
    for (int l = 0; l < spec.n_levels; ++l) {
      const float rest = x[i] - scaled[l];
      table[i][l] = w[i] * rest * rest;
    }
  }
  const std::uint16_t* near = spec.neighbours->of(point);
  std::uint16_t best = near[0];
  for (int k = 0; k < GridNeighbours::kNeighbours; ++k) {
    const std::uint8_t* number = spec.neighbours->numbers(near[k]);
    float c = 0.0f;
    for (int i = 0; i < kGroup; ++i) c += table[i][number[i]];
    if (k > 0 && !(c < *cost)) continue;
    *cost = c;
    best = near[k];
  }
  return best;
}

float level_of(const GridSpec& spec, int set, int entry, int i) {
  return spec.levels[set][spec.neighbours->numbers(entry)[i]];
}

/// The best grid entries of a sub-block at scale e.
SubChoice search_sub(const GridSpec& spec, const float* x, const float* w, float e) {
  SubChoice choice;
  const int groups_per_span = spec.set_span / spec.group;
  for (int span = 0; span < spec.sub / spec.set_span; ++span) {
    double best_cost = -1.0;
    for (int set = 0; set < spec.n_sets; ++set) {
      std::uint16_t codes[8];
      double cost = 0.0;
      for (int g = 0; g < groups_per_span; ++g) {
        const int at = span * spec.set_span + g * spec.group;
        float c;
        codes[g] = spec.group == 8 ? nearest_entry<8>(spec, set, x + at, w + at, e, &c)
                                   : nearest_entry<4>(spec, set, x + at, w + at, e, &c);
        cost += c;
      }
      if (best_cost >= 0.0 && !(cost < best_cost)) continue;
      best_cost = cost;
      choice.set[span] = static_cast<std::uint8_t>(set);
      std::copy(codes, codes + groups_per_span, choice.code + span * groups_per_span);
    }
    choice.cost += best_cost;
  }
  for (int j = 0; j < spec.sub; ++j) {
    const float level =
        level_of(spec, choice.set[j / spec.set_span], choice.code[j / spec.group], j % spec.group);
    choice.xl += static_cast<double>(w[j]) * x[j] * level;
    choice.ll += static_cast<double>(w[j]) * level * level;
  }
  return choice;
}

/// Scale at which free choice of levels (no grid) fits best: a cheap start for the grid search.
/// The levels are close enough to evenly spaced to be treated so here.
float free_scale(const GridSpec& spec, const float* x, const float* w) {
  float top = 0.0f;
  for (int j = 0; j < spec.sub; ++j) top = std::max(top, std::fabs(x[j]));
  if (top < kSmallestMagnitude) return 0.0f;
  const float first = spec.levels[0][0], last = spec.levels[0][spec.n_levels - 1];
  const float n_steps = static_cast<float>(spec.n_levels - 1);
  const float step = (last - first) / n_steps, per_step = 1.0f / step;
  const float start = top / last;
  float best = start, best_error = -1.0f;
  for (int t = 0; t < 18; ++t) {
    const float e = start * (0.3f + 0.05f * static_cast<float>(t));
    const float inverse = per_step / e, origin = first * per_step;
    float sum[4] = {};  // lanes
    for (int j = 0; j < spec.sub; j += 4) {
      for (int i = 0; i < 4; ++i) {
        float number = x[j + i] * inverse - origin;
        number = number < 0.0f ? 0.0f : number > n_steps ? n_steps : number;
        number = (number + 0x1.8p23f) - 0x1.8p23f;  // to the nearest integer
        const float rest = x[j + i] - e * (first + step * number);
        sum[i] += w[j + i] * rest * rest;
      }
    }
    const float error = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    if (best_error >= 0.0f && !(error < best_error)) continue;
    best_error = error;
    best = e;
  }
  return best;
}

/// Best real scale of a sub-block on the grid.
float fit_sub(const GridSpec& spec, const float* x, const float* w) {
  const float start = free_scale(spec, x, w);
  if (start == 0.0f) return 0.0f;
  double best_gain = 0.0;
  float best = start;
  const auto try_scale = [&](float e) {
    const SubChoice choice = search_sub(spec, x, w, e);
    if (!(choice.ll > 0.0) || !(choice.xl > 0.0)) return;
    const double gain = choice.xl * choice.xl / choice.ll;
    if (gain > best_gain) {
      best_gain = gain;
      best = static_cast<float>(choice.xl / choice.ll);
    }
  };
  for (const float factor : {0.88f, 1.0f, 1.12f}) try_scale(start * factor);
  try_scale(best);
  return best;
}

/// Replaces values by magnitudes and records signs. An even sign count is reached by giving the
/// cheapest value the wrong sign: its magnitude becomes negative.
void split_signs(const GridSpec& spec, SearchBlock* values, GridCodes* codes) {
  if (spec.signs == Signs::kNone) return;
  for (int g = 0; g < kSuper / 8; ++g) {
    float* x = values->x + 8 * g;
    unsigned mask = 0;
    bool odd = false;
    int cheapest = 0;
    for (int i = 0; i < 8; ++i) {
      if (x[i] < 0.0f) {
        mask |= 1u << i;
        odd = !odd;
        x[i] = -x[i];
      }
      const auto cost = [&](int k) { return values->w[8 * g + k] * x[k] * x[k]; };
      if (cost(i) < cost(cheapest)) cheapest = i;
    }
    if (odd && spec.signs == Signs::kEven) {
      mask ^= 1u << cheapest;
      x[cheapest] = -x[cheapest];
    }
    codes->sign[g] = static_cast<std::uint8_t>(mask);
  }
}

/// Least squares for d with everything else fixed.
float refit_d(const GridSpec& spec, const SearchBlock& values, const GridCodes& codes) {
  double xl = 0.0, ll = 0.0;
  for (int j = 0; j < kSuper; ++j) {
    const float level =
        level_of(spec, codes.set[j / spec.set_span], codes.code[j / spec.group], j % spec.group);
    const double v = static_cast<double>(level) * (codes.s[j / spec.sub] + 0.5) * spec.unit;
    xl += static_cast<double>(values.w[j]) * values.x[j] * v;
    ll += static_cast<double>(values.w[j]) * v * v;
  }
  return ll > 0.0 && xl > 0.0 ? static_cast<float>(xl / ll) : codes.d;
}

GridCodes grid_codes(const GridSpec& spec, const float* x, const float* importance) {
  GridCodes codes;
  SearchBlock values;
  load_search_block(x, importance, kSuper, &values);
  if (values.magnitude < kSmallestMagnitude) return codes;
  split_signs(spec, &values, &codes);
  const int n_sub = kSuper / spec.sub;
  float fit[16], top = 0.0f;
  for (int s = 0; s < n_sub; ++s) {
    fit[s] = fit_sub(spec, values.x + s * spec.sub, values.w + s * spec.sub);
    top = std::max(top, fit[s]);
  }
  codes.d = fp16_rounded_scale(top / (spec.unit * (static_cast<float>(spec.s_max) + 0.5f)));
  for (int s = 0; s < n_sub; ++s) {
    const int lower = truncate_to(fit[s] / (codes.d * spec.unit) - 0.5f, 0, spec.s_max);
    double best_cost = -1.0;
    for (int i = lower; i <= std::min(lower + 1, spec.s_max); ++i) {
      const float e = codes.d * spec.unit * (static_cast<float>(i) + 0.5f);
      const SubChoice choice =
          search_sub(spec, values.x + s * spec.sub, values.w + s * spec.sub, e);
      if (best_cost >= 0.0 && !(choice.cost < best_cost)) continue;
      best_cost = choice.cost;
      codes.s[s] = static_cast<std::uint8_t>(i);
      std::copy_n(choice.code, spec.sub / spec.group, codes.code + s * spec.sub / spec.group);
      std::copy_n(choice.set, spec.sub / spec.set_span, codes.set + s * spec.sub / spec.set_span);
    }
  }
  codes.d = fp16_rounded_scale(refit_d(spec, values, codes));
  return codes;
}

constexpr float kIq2LevelValues[3] = {8, 25, 43};

/// Built at first use of a grid.
template <const std::uint16_t* kGrid, int kEntries>
GridSpec iq2_spec(int sub, Signs signs) {
  static const GridNeighbours kNear({kGrid, kEntries, 8, 2, 3}, kIq2LevelValues);
  return {&kNear, 8, 3, {{8, 25, 43}}, 1, sub, sub, 15, 0.25f, signs};
}

template <const std::uint16_t* kGrid, int kEntries, const std::uint8_t* kLevels>
GridSpec iq3_spec(float unit, Signs signs) {
  float levels[8];
  for (int l = 0; l < 8; ++l) levels[l] = kLevels[l];
  static const GridNeighbours kNear({kGrid, kEntries, 4, 4, 8}, levels);
  GridSpec spec{&kNear, 4, 8, {}, 1, 32, 32, 15, unit, signs};
  std::copy_n(levels, 8, spec.levels[0]);
  return spec;
}

GridSpec iq1_spec(int sub, int set_span) {
  constexpr float kLevels[3] = {-1, 0, 1};
  static const GridNeighbours kNear({kIq1Grid, 2048, 8, 2, 3}, kLevels);
  GridSpec spec{&kNear, 8, 3, {}, 2, set_span, sub, 7, 2.0f, Signs::kNone};
  for (int l = 0; l < 3; ++l) {
    spec.levels[0][l] = kLevels[l] + kIq1Delta;
    spec.levels[1][l] = kLevels[l] - kIq1Delta;
  }
  return spec;
}

/// Calls write(block, codes) for every super-block of a row.
template <class Block, class Write>
void for_blocks(const GridSpec& spec, const float* x, const float* importance, void* blocks,
                std::int64_t n, Write write) {
  auto* b = static_cast<Block*>(blocks);
  for (std::int64_t i = 0; i < n; i += kSuper, ++b) {
    *b = {};
    write(b, grid_codes(spec, x + i, importance != nullptr ? importance + i : nullptr));
  }
}

/// Four 7-bit sign fields and the scale of 32 values.
std::uint32_t signs_and_scale(const GridCodes& codes, int s) {
  std::uint32_t packed = static_cast<std::uint32_t>(codes.s[s]) << 28;
  for (int g = 0; g < 4; ++g) {
    packed |= static_cast<std::uint32_t>(codes.sign[4 * s + g] & 127) << (7 * g);
  }
  return packed;
}

void store_scale_nibbles(const GridCodes& codes, int n_sub, std::uint8_t* scales) {
  for (int s = 0; s < n_sub; ++s) {
    scales[s / 2] |= static_cast<std::uint8_t>(codes.s[s] << (4 * (s % 2)));
  }
}

}  // namespace

void encode_iq2_xxs(const float* x, const float* importance, void* blocks,
                    std::int64_t n) noexcept {
  const GridSpec spec = iq2_spec<kIq2XxsGrid, 256>(32, Signs::kEven);
  for_blocks<BlockIQ2_XXS>(spec, x, importance, blocks, n, [](BlockIQ2_XXS* b, const GridCodes& c) {
    b->d = fp16_scale(c.d);
    for (int g = 0; g < 32; ++g) b->qs[8 * (g / 4) + g % 4] = static_cast<std::uint8_t>(c.code[g]);
    for (int s = 0; s < 8; ++s) store_u32(b->qs + 8 * s + 4, signs_and_scale(c, s));
  });
}

void encode_iq2_xs(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  const GridSpec spec = iq2_spec<kIq2XsGrid, 512>(16, Signs::kEven);
  for_blocks<BlockIQ2_XS>(spec, x, importance, blocks, n, [](BlockIQ2_XS* b, const GridCodes& c) {
    b->d = fp16_scale(c.d);
    for (int g = 0; g < 32; ++g) {
      store_u16(b->qs + 2 * g, c.code[g] | static_cast<unsigned>(c.sign[g] & 127) << 9);
    }
    store_scale_nibbles(c, 16, b->scales);
  });
}

void encode_iq2_s(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  const GridSpec spec = iq2_spec<kIq2SGrid, 1024>(16, Signs::kFree);
  for_blocks<BlockIQ2_S>(spec, x, importance, blocks, n, [](BlockIQ2_S* b, const GridCodes& c) {
    b->d = fp16_scale(c.d);
    for (int g = 0; g < 32; ++g) {
      b->qs[g] = static_cast<std::uint8_t>(c.code[g]);
      b->qh[g / 4] |= static_cast<std::uint8_t>((c.code[g] >> 8) << (2 * (g % 4)));
      b->signs[g] = c.sign[g];
    }
    store_scale_nibbles(c, 16, b->scales);
  });
}

void encode_iq3_xxs(const float* x, const float* importance, void* blocks,
                    std::int64_t n) noexcept {
  const GridSpec spec = iq3_spec<kIq3XxsGrid, 256, kIq3XxsLevels>(0.5f, Signs::kEven);
  for_blocks<BlockIQ3_XXS>(spec, x, importance, blocks, n, [](BlockIQ3_XXS* b, const GridCodes& c) {
    b->d = fp16_scale(c.d);
    for (int g = 0; g < 64; ++g) b->qs[g] = static_cast<std::uint8_t>(c.code[g]);
    for (int s = 0; s < 8; ++s) store_u32(b->signs + 4 * s, signs_and_scale(c, s));
  });
}

void encode_iq3_s(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  const GridSpec spec = iq3_spec<kIq3SGrid, 512, kIq3SLevels>(2.0f, Signs::kFree);
  for_blocks<BlockIQ3_S>(spec, x, importance, blocks, n, [](BlockIQ3_S* b, const GridCodes& c) {
    b->d = fp16_scale(c.d);
    for (int g = 0; g < 64; ++g) {
      b->qs[g] = static_cast<std::uint8_t>(c.code[g]);
      b->qh[g / 8] |= static_cast<std::uint8_t>((c.code[g] >> 8) << (g % 8));
    }
    std::copy_n(c.sign, 32, b->signs);
    store_scale_nibbles(c, 8, b->scales);
  });
}

void encode_iq1_s(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  const GridSpec spec = iq1_spec(32, 32);
  for_blocks<BlockIQ1_S>(spec, x, importance, blocks, n, [](BlockIQ1_S* b, const GridCodes& c) {
    b->d = fp16_scale(c.d);
    for (int s = 0; s < 8; ++s) {
      unsigned qh = static_cast<unsigned>(c.s[s]) << 12 | static_cast<unsigned>(c.set[s]) << 15;
      for (int g = 0; g < 4; ++g) {
        const unsigned code = c.code[4 * s + g];
        b->qs[4 * s + g] = static_cast<std::uint8_t>(code);
        qh |= (code >> 8) << (3 * g);
      }
      store_u16(b->qh + 2 * s, qh);
    }
  });
}

void encode_iq1_m(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  const GridSpec spec = iq1_spec(16, 8);
  for_blocks<BlockIQ1_M>(spec, x, importance, blocks, n, [](BlockIQ1_M* b, const GridCodes& c) {
    const unsigned d = fp16_scale(c.d);
    for (int g = 0; g < 32; ++g) {
      b->qs[g] = static_cast<std::uint8_t>(c.code[g]);
      const unsigned high = static_cast<unsigned>(c.code[g] >> 8) | static_cast<unsigned>(c.set[g])
                                                                        << 3;
      b->qh[g / 2] |= static_cast<std::uint8_t>(high << (4 * (g % 2)));
    }
    for (int j = 0; j < 4; ++j) {
      unsigned packed = ((d >> (4 * j)) & 15) << 12;
      for (int s = 0; s < 4; ++s) packed |= static_cast<unsigned>(c.s[4 * j + s]) << (3 * s);
      store_u16(b->scales + 2 * j, packed);
    }
  });
}

}  // namespace kt::formats
