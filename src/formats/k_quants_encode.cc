#include <cmath>

#include "formats/codec_util.h"
#include "formats/k_quants.h"
#include "formats/scale_search.h"

namespace kt::formats {
namespace {

/// Calls write(block, values) for every super-block of a row.
template <class Block, class Write>
void for_blocks(const float* x, const float* importance, void* blocks, std::int64_t n,
                Write write) {
  auto* b = static_cast<Block*>(blocks);
  for (std::int64_t i = 0; i < n; i += kSuperBlock, ++b) {
    SearchBlock values;
    load_search_block(x + i, importance != nullptr ? importance + i : nullptr, kSuperBlock,
                      &values);
    *b = {};
    write(b, values);
  }
}

/// Super-block scales and codes of an affine format.
AffineSuper affine_super(const SearchBlock& values, const AffineShape& shape, std::uint8_t* q) {
  const AffineSuper super = fit_affine_super(values, shape);
  for (int s = 0; s < kSuperBlock / shape.sub_len; ++s) {
    affine_codes(values.x + s * shape.sub_len, shape.sub_len,
                 super.d * static_cast<float>(super.sc[s]),
                 super.dmin * static_cast<float>(super.m[s]), shape.q_max, q + s * shape.sub_len);
  }
  return super;
}

/// Codes of a symmetric format, shifted to start at 0.
template <int kLow, int kHigh>
void signed_codes(const SearchBlock& values, float d, const std::int8_t* sc, std::uint8_t* q) {
  for (int j = 0; j < kSuperBlock; ++j) {
    const float e = d * static_cast<float>(sc[j / 16]);
    const float level =
        e != 0.0f ? UniformLevels<kLow, kHigh>::nearest(values.x[j] * (1.0f / e)) : 0.0f;
    q[j] = static_cast<std::uint8_t>(static_cast<int>(level) - kLow);
  }
}

/// The nibble order of Q4_K and Q5_K.
void store_nibbles(const std::uint8_t* q, std::uint8_t* qs) {
  for (int j = 0; j < 128; ++j) {
    const std::uint8_t* pair = q + 64 * (j / 32) + j % 32;
    qs[j] = static_cast<std::uint8_t>((pair[0] & 15) | ((pair[32] & 15) << 4));
  }
}

/// The two-bit order of Q2_K and Q3_K.
void store_pairs(const std::uint8_t* q, std::uint8_t* qs) {
  for (int j = 0; j < 64; ++j) {
    const std::uint8_t* v = q + 128 * (j / 32) + j % 32;
    qs[j] = static_cast<std::uint8_t>((v[0] & 3) | ((v[32] & 3) << 2) | ((v[64] & 3) << 4) |
                                      ((v[96] & 3) << 6));
  }
}

/// bits[l] bit s = bit `bit` of value 32*s + l.
void store_high_bits(const std::uint8_t* q, int bit, std::uint8_t* bits) {
  for (int j = 0; j < kSuperBlock; ++j) {
    bits[j % 32] |= static_cast<std::uint8_t>(((q[j] >> bit) & 1) << (j / 32));
  }
}

}  // namespace

void encode_q2_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  for_blocks<BlockQ2_K>(x, importance, blocks, n, [](BlockQ2_K* b, const SearchBlock& values) {
    std::uint8_t q[kSuperBlock];
    const AffineSuper super = affine_super(values, {16, 3, 15}, q);
    b->d = fp16_scale(super.d);
    b->dmin = fp16_scale(super.dmin);
    for (int s = 0; s < 16; ++s) {
      b->scales[s] = static_cast<std::uint8_t>(super.sc[s] | (super.m[s] << 4));
    }
    store_pairs(q, b->qs);
  });
}

void encode_q3_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  for_blocks<BlockQ3_K>(x, importance, blocks, n, [](BlockQ3_K* b, const SearchBlock& values) {
    std::int8_t sc[16];
    const float d = fit_signed_super<UniformLevels<-4, 3>, 16, -32, 31>(values, sc);
    std::uint8_t q[kSuperBlock];
    signed_codes<-4, 3>(values, d, sc, q);
    b->d = fp16_scale(d);
    pack_scales_q3_k(sc, b->scales);
    store_pairs(q, b->qs);
    store_high_bits(q, 2, b->hmask);
  });
}

void encode_q4_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  for_blocks<BlockQ4_K>(x, importance, blocks, n, [](BlockQ4_K* b, const SearchBlock& values) {
    std::uint8_t q[kSuperBlock];
    const AffineSuper super = affine_super(values, {32, 15, 63}, q);
    b->d = fp16_scale(super.d);
    b->dmin = fp16_scale(super.dmin);
    pack_scales_k4(super.sc, super.m, b->scales);
    store_nibbles(q, b->qs);
  });
}

void encode_q5_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  for_blocks<BlockQ5_K>(x, importance, blocks, n, [](BlockQ5_K* b, const SearchBlock& values) {
    std::uint8_t q[kSuperBlock];
    const AffineSuper super = affine_super(values, {32, 31, 63}, q);
    b->d = fp16_scale(super.d);
    b->dmin = fp16_scale(super.dmin);
    pack_scales_k4(super.sc, super.m, b->scales);
    store_nibbles(q, b->qs);
    store_high_bits(q, 4, b->qh);
  });
}

void encode_q6_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  for_blocks<BlockQ6_K>(x, importance, blocks, n, [](BlockQ6_K* b, const SearchBlock& values) {
    const float d = fit_signed_super<UniformLevels<-32, 31>, 16, -128, 127>(values, b->scales);
    std::uint8_t q[kSuperBlock];
    signed_codes<-32, 31>(values, d, b->scales, q);
    b->d = fp16_scale(d);
    for (int j = 0; j < 128; ++j) {
      const std::uint8_t* v = q + 128 * (j / 64) + j % 64;
      b->ql[j] = static_cast<std::uint8_t>((v[0] & 15) | ((v[64] & 15) << 4));
    }
    for (int j = 0; j < 64; ++j) {
      const std::uint8_t* v = q + 128 * (j / 32) + j % 32;
      b->qh[j] = static_cast<std::uint8_t>((v[0] >> 4) | ((v[32] >> 4) << 2) | ((v[64] >> 4) << 4) |
                                           ((v[96] >> 4) << 6));
    }
  });
}

void encode_q8_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  for_blocks<BlockQ8_K>(x, importance, blocks, n, [](BlockQ8_K* b, const SearchBlock& values) {
    if (values.magnitude < 0x1p-100f) return;  // 1 / d would overflow
    b->d = values.magnitude / 127.0f;
    const float inverse = 1.0f / b->d;
    for (int j = 0; j < kSuperBlock; ++j) {
      b->qs[j] = static_cast<std::int8_t>(round_to(values.x[j] * inverse, -127, 127));
      b->bsums[j / 16] = static_cast<std::int16_t>(b->bsums[j / 16] + b->qs[j]);
    }
  });
}

}  // namespace kt::formats
