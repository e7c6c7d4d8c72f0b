// Scale search shared by the quantisers: weighted least squares over a few starting scales.
//
//   uniform and codebook levels:  minimise Σ w (x - e * level)²       e = d * sc, sc a small signed
//   integer affine codes:                 minimise Σ w (x - (e * q - o))²     e = d * sc, o = dmin
//   * m, both >= 0
// Every sub-block gets its best real scale first; then d is chosen, the integers are re-tried
// around their rounded values with all codes redone, and d is refitted to the final codes. Thread
// rule: pure.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace kt::formats {

/// Values and weights of one block, cleaned: finite, weights in (0, 1], never all zero.
/// w floors at 1e-6 so that values nobody weighted still get sensible codes.
struct SearchBlock {
  float x[256];
  float w[256];
  int n = 0;
  float magnitude = 0.0f;  // max |x|
};

/// Loads n <= 256 values; importance null means all equal.
void load_search_block(const float* x, const float* importance, int n, SearchBlock* block) noexcept;

/// Blocks whose magnitude is below this are stored as zero: no fp16 scale can represent them.
inline constexpr float kSmallestMagnitude = 1e-15f;

/// The integers low … high. nearest() rounds half to even.
template <int kLow, int kHigh>
struct UniformLevels {
  static constexpr float kFirst = kLow;
  static constexpr float kLast = kHigh;
  static constexpr float kSpan =
      0.9f;  // how far starting scales leave the exact fit of the extreme
  static float nearest(float v) {
    v = v < kFirst ? kFirst : v > kLast ? kLast : v;
    return (v + 0x1.8p23f) - 0x1.8p23f;
  }
};

/// A scale fitted to values, and its weighted squared error.
struct ScaleFit {
  float scale = 0.0f;
  float error = 0.0f;
};

/// Weighted squared error of levels at scale e.
template <class Levels>
float level_error(const float* x, const float* w, int n, float e) {
  const float inverse = e != 0.0f ? 1.0f / e : 0.0f;
  float sum = 0.0f;
  for (int j = 0; j < n; ++j) {
    const float rest = x[j] - e * Levels::nearest(x[j] * inverse);
    sum += w[j] * rest * rest;
  }
  return sum;
}

/// Best scale (either sign) of n values. Zero when all are zero.
template <class Levels>
float fit_scale(const float* x, const float* w, int n) {
  constexpr int kSteps = 6;
  float extreme = 0.0f;
  for (int j = 0; j < n; ++j) {
    if ((x[j] < 0.0f ? -x[j] : x[j]) > (extreme < 0.0f ? -extreme : extreme)) extreme = x[j];
  }
  if (extreme < kSmallestMagnitude && extreme > -kSmallestMagnitude) return 0.0f;
  float best_gain = 0.0f, best = 0.0f;
  for (const float end : {Levels::kFirst, Levels::kLast}) {
    for (int t = -kSteps; t <= kSteps; ++t) {
      const float inverse = (end + Levels::kSpan * static_cast<float>(t) / kSteps) / extreme;
      float xl = 0.0f, ll = 0.0f;
      for (int j = 0; j < n; ++j) {
        const float level = Levels::nearest(x[j] * inverse);
        xl += w[j] * x[j] * level;
        ll += w[j] * level * level;
      }
      if (ll > 0.0f && xl * (xl / ll) > best_gain) {
        best_gain = xl * (xl / ll);
        best = xl / ll;
      }
    }
  }
  return best;
}

/// fp16 rounded scale as float; keeps a tiny non-zero scale from rounding to zero.
float fp16_rounded_scale(float d) noexcept;

/// Scales of a super-block x ≈ (d * sc[s]) * level. Returns d, exactly representable in fp16.
template <class Levels, int kSubLen, int kScaleMin, int kScaleMax>
float fit_signed_super(const SearchBlock& block, std::int8_t* sc) {
  const int n_sub = block.n / kSubLen;
  float fit[16] = {}, extreme = 0.0f;
  for (int s = 0; s < n_sub; ++s) {
    fit[s] = fit_scale<Levels>(block.x + s * kSubLen, block.w + s * kSubLen, kSubLen);
    if ((fit[s] < 0.0f ? -fit[s] : fit[s]) > (extreme < 0.0f ? -extreme : extreme))
      extreme = fit[s];
    sc[s] = 0;
  }
  if (extreme == 0.0f) return 0.0f;
  float best_error = -1.0f, best_d = 0.0f;
  const auto try_d = [&](float d) {
    std::int8_t trial[16];
    float total = 0.0f;
    for (int s = 0; s < n_sub; ++s) {
      const float* x = block.x + s * kSubLen;
      const float* w = block.w + s * kSubLen;
      const int middle = static_cast<int>(UniformLevels<kScaleMin, kScaleMax>::nearest(fit[s] / d));
      float sub_error = -1.0f;
      for (int i = middle - 1; i <= middle + 1; ++i) {
        if (i < kScaleMin || i > kScaleMax) continue;
        const float error = level_error<Levels>(x, w, kSubLen, d * static_cast<float>(i));
        if (sub_error >= 0.0f && !(error < sub_error)) continue;
        sub_error = error;
        trial[s] = static_cast<std::int8_t>(i);
      }
      total += sub_error;
    }
    if (best_error >= 0.0f && !(total < best_error)) return;
    best_error = total;
    best_d = d;
    for (int s = 0; s < n_sub; ++s) sc[s] = trial[s];
  };
  for (int step = 0; step < 3; ++step) {
    try_d(fp16_rounded_scale(extreme / static_cast<float>(kScaleMin + step)));
  }
  // Least squares for d with the codes fixed, then the integers once more around it.
  double xl = 0.0, ll = 0.0;
  for (int j = 0; j < block.n; ++j) {
    const float e = best_d * static_cast<float>(sc[j / kSubLen]);
    if (e == 0.0f) continue;
    const double level =
        static_cast<double>(sc[j / kSubLen]) * Levels::nearest(block.x[j] * (1.0f / e));
    xl += static_cast<double>(block.w[j]) * block.x[j] * level;
    ll += static_cast<double>(block.w[j]) * level * level;
  }
  if (ll > 0.0 && xl != 0.0) try_d(fp16_rounded_scale(static_cast<float>(xl / ll)));
  return best_d;
}

/// Scales of a super-block x ≈ (d * sc[s]) * q - (dmin * m[s]), q in [0, q_max]; exact in fp16.
struct AffineSuper {
  float d = 0.0f;
  float dmin = 0.0f;
  std::uint8_t sc[16] = {};
  std::uint8_t m[16] = {};
};

struct AffineShape {
  int sub_len;
  int q_max;
  int scale_max;  // sc and m are in [0, scale_max]
};

AffineSuper fit_affine_super(const SearchBlock& block, const AffineShape& shape) noexcept;

/// Codes of n values x ≈ e * q - o with q in [0, q_max].
void affine_codes(const float* x, int n, float e, float o, int q_max, std::uint8_t* q) noexcept;

}  // namespace kt::formats
