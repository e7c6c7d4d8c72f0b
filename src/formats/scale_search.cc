#include "formats/scale_search.h"

#include <algorithm>
#include <cmath>

#include "formats/codec_util.h"

namespace kt::formats {
namespace {

/// v >= 0 rounded, limited to q_max.
float nearest_code(float v, float q_max) {
  v = v < 0.0f ? 0.0f : v > q_max ? q_max : v;
  return (v + 0x1.8p23f) - 0x1.8p23f;
}

float affine_error(const float* x, const float* w, int n, float e, float o, float q_max) {
  const float inverse = e > 0.0f ? 1.0f / e : 0.0f;
  float sum = 0.0f;
  for (int j = 0; j < n; ++j) {
    const float rest = x[j] - (e * nearest_code((x[j] + o) * inverse, q_max) - o);
    sum += w[j] * rest * rest;
  }
  return sum;
}

struct Affine {
  float e = 0.0f;
  float o = 0.0f;  // x ≈ e * q - o, both >= 0
  float error = -1.0f;
};

/// Weighted least squares for e and o with the codes that `start` gives.
Affine refit(const float* x, const float* w, int n, const Affine& start, float q_max) {
  const float inverse = start.e > 0.0f ? 1.0f / start.e : 0.0f;
  float sw = 0.0f, sx = 0.0f, sq = 0.0f, sqq = 0.0f, sqx = 0.0f;
  for (int j = 0; j < n; ++j) {
    const float q = nearest_code((x[j] + start.o) * inverse, q_max);
    sw += w[j];
    sx += w[j] * x[j];
    sq += w[j] * q;
    sqq += w[j] * q * q;
    sqx += w[j] * q * x[j];
  }
  Affine fit = start;
  const float determinant = sw * sqq - sq * sq;
  if (determinant > 1e-6f * sw * sqq) {
    fit.e = (sw * sqx - sq * sx) / determinant;
    fit.o = (sq * sqx - sqq * sx) / determinant;
  }
  if (!(fit.o >= 0.0f)) {  // the offset cannot be stored: fit the scale alone
    fit.o = 0.0f;
    fit.e = sqq > 0.0f ? sqx / sqq : 0.0f;
  }
  if (!(fit.e >= 0.0f)) fit.e = 0.0f;
  fit.error = affine_error(x, w, n, fit.e, fit.o, q_max);
  return fit;
}

Affine fit_affine(const float* x, const float* w, int n, int q_max_int) {
  const float q_max = static_cast<float>(q_max_int);
  float low = 0.0f, high = x[0];
  for (int j = 0; j < n; ++j) {
    low = std::min(low, x[j]);
    high = std::max(high, x[j]);
  }
  Affine best;
  if (high - low < kSmallestMagnitude) {
    best.o = -low;
    best.error = affine_error(x, w, n, 0.0f, best.o, q_max);
    return best;
  }
  // Starting ranges from slightly wider than the data to clipped at one or both ends.
  const int n_steps = q_max_int <= 3 ? 14 : 20;
  for (int t = 0; t < n_steps; ++t) {
    const float inverse = (q_max - 0.5f + 0.1f * static_cast<float>(t)) / (high - low);
    Affine start;
    start.e = 1.0f / inverse;
    start.o = -low;
    Affine fit = refit(x, w, n, start, q_max);
    if (best.error < 0.0f || fit.error < best.error) best = fit;
  }
  for (int round = 0; round < 3; ++round) {
    const Affine fit = refit(x, w, n, best, q_max);
    if (!(fit.error < best.error)) break;
    best = fit;
  }
  return best;
}

/// Chooses the integers of every sub-block for given d and dmin; returns the total error.
float choose_integers(const SearchBlock& block, const AffineShape& shape, const Affine* fit,
                      AffineSuper* super) {
  const float q_max = static_cast<float>(shape.q_max);
  const auto integer = [&](float v, float unit) {
    return unit > 0.0f ? round_to(v / unit, 0, shape.scale_max) : 0;
  };
  float total = 0.0f;
  for (int s = 0; s < block.n / shape.sub_len; ++s) {
    const float* x = block.x + s * shape.sub_len;
    const float* w = block.w + s * shape.sub_len;
    const int sc0 = integer(fit[s].e, super->d), m0 = integer(fit[s].o, super->dmin);
    float best = -1.0f;
    for (int sc = std::max(sc0 - 1, 0); sc <= std::min(sc0 + 1, shape.scale_max); ++sc) {
      for (int m = std::max(m0 - 1, 0); m <= std::min(m0 + 1, shape.scale_max); ++m) {
        const float error = affine_error(x, w, shape.sub_len, super->d * static_cast<float>(sc),
                                         super->dmin * static_cast<float>(m), q_max);
        if (best >= 0.0f && !(error < best)) continue;
        best = error;
        super->sc[s] = static_cast<std::uint8_t>(sc);
        super->m[s] = static_cast<std::uint8_t>(m);
      }
    }
    total += best;
  }
  return total;
}

/// Least squares for d and dmin with all codes and integers fixed. Negative results are dropped.
AffineSuper refit_super(const SearchBlock& block, const AffineShape& shape, AffineSuper super) {
  double aa = 0.0, ab = 0.0, bb = 0.0, ax = 0.0, bx = 0.0;
  for (int j = 0; j < block.n; ++j) {
    const int s = j / shape.sub_len;
    std::uint8_t q;
    affine_codes(block.x + j, 1, super.d * static_cast<float>(super.sc[s]),
                 super.dmin * static_cast<float>(super.m[s]), shape.q_max, &q);
    const double a = static_cast<double>(super.sc[s]) * q, b = -static_cast<double>(super.m[s]);
    const double w = block.w[j], x = block.x[j];
    aa += w * a * a;
    ab += w * a * b;
    bb += w * b * b;
    ax += w * a * x;
    bx += w * b * x;
  }
  const double determinant = aa * bb - ab * ab;
  double d = super.d, dmin = super.dmin;
  if (determinant > 1e-9 * aa * bb) {
    d = (bb * ax - ab * bx) / determinant;
    dmin = (aa * bx - ab * ax) / determinant;
  } else if (aa > 0.0 && bb == 0.0) {
    d = ax / aa;
  }
  if (d > 0.0) super.d = fp16_rounded_scale(static_cast<float>(d));
  if (dmin > 0.0) super.dmin = fp16_rounded_scale(static_cast<float>(dmin));
  return super;
}

}  // namespace

void load_search_block(const float* x, const float* importance, int n,
                       SearchBlock* block) noexcept {
  block->n = n;
  block->magnitude = 0.0f;
  float top = 0.0f;
  for (int j = 0; j < n; ++j) {
    block->x[j] = clean(x[j]);
    block->magnitude = std::max(block->magnitude, std::fabs(block->x[j]));
    block->w[j] = importance != nullptr ? clean_importance(importance[j]) : 1.0f;
    top = std::max(top, block->w[j]);
  }
  for (int j = 0; j < n; ++j) {
    block->w[j] = top > 0.0f ? std::max(block->w[j] / top, 1e-6f) : 1.0f;
  }
}

float fp16_rounded_scale(float d) noexcept {
  const float rounded = fp16_to_f32(fp16_scale(d));
  if (rounded != 0.0f || d == 0.0f) return rounded;
  return d > 0.0f ? 0x1p-24f : -0x1p-24f;
}

void affine_codes(const float* x, int n, float e, float o, int q_max, std::uint8_t* q) noexcept {
  const float inverse = e > 0.0f ? 1.0f / e : 0.0f;
  for (int j = 0; j < n; ++j) {
    q[j] = static_cast<std::uint8_t>(nearest_code((x[j] + o) * inverse, static_cast<float>(q_max)));
  }
}

AffineSuper fit_affine_super(const SearchBlock& block, const AffineShape& shape) noexcept {
  AffineSuper super;
  if (block.magnitude < kSmallestMagnitude) return super;
  Affine fit[16];
  float top_e = 0.0f, top_o = 0.0f;
  for (int s = 0; s < block.n / shape.sub_len; ++s) {
    fit[s] = fit_affine(block.x + s * shape.sub_len, block.w + s * shape.sub_len, shape.sub_len,
                        shape.q_max);
    top_e = std::max(top_e, fit[s].e);
    top_o = std::max(top_o, fit[s].o);
  }
  super.d = fp16_rounded_scale(top_e / static_cast<float>(shape.scale_max));
  super.dmin = fp16_rounded_scale(top_o / static_cast<float>(shape.scale_max));
  float error = choose_integers(block, shape, fit, &super);
  for (int round = 0; round < 2; ++round) {
    AffineSuper next = refit_super(block, shape, super);
    const float next_error = choose_integers(block, shape, fit, &next);
    if (!(next_error < error)) break;
    error = next_error;
    super = next;
  }
  return super;
}

}  // namespace kt::formats
