#include "formats/checkpoint_quants.h"

#include <cmath>

#include "formats/codec_util.h"

namespace kt::formats {
namespace {

template <int kLen>
void decode_i4(const void* blocks, float* out, std::int64_t n) {
  const auto* b = static_cast<const BlockI4<kLen>*>(blocks);
  for (; n > 0; n -= kLen, out += kLen, ++b) {
    const float scale = b->scale, zero = b->zero;
    for (int j = 0; j < kLen / 2; ++j) {
      out[j] = (static_cast<float>(b->q[j] & 15) - zero) * scale;
      out[j + kLen / 2] = (static_cast<float>(b->q[j] >> 4) - zero) * scale;
    }
  }
}

template <int kLen>
void encode_i4(const float* x, void* blocks, std::int64_t n) {
  auto* b = static_cast<BlockI4<kLen>*>(blocks);
  for (; n > 0; n -= kLen, x += kLen, ++b) {
    float low = 0.0f, high = 0.0f;
    for (int j = 0; j < kLen; ++j) {
      low = std::fmin(low, clean(x[j]));
      high = std::fmax(high, clean(x[j]));
    }
    const float scale = (high - low) / 15.0f;
    const bool flat = scale < 0x1p-100f;  // 1 / scale would overflow
    const float inverse = flat ? 0.0f : 1.0f / scale;
    b->scale = flat ? 0.0f : scale;
    // An integer zero point, as the checkpoints have, keeps zero exact.
    b->zero = static_cast<float>(round_to(-low * inverse, 0, 15));
    const auto code = [&](int j) { return round_to(clean(x[j]) * inverse + b->zero, 0, 15); };
    for (int j = 0; j < kLen / 2; ++j) {
      b->q[j] = static_cast<std::uint8_t>(code(j) | (code(j + kLen / 2) << 4));
    }
  }
}

}  // namespace

void decode_f8_e4m3_b128(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockF8_E4M3_B128*>(blocks);
  for (; n > 0; n -= 128, out += 128, ++b) {
    const float scale = b->scale;
    for (int j = 0; j < 128; ++j) out[j] = fp8_e4m3_to_f32(b->q[j]) * scale;
  }
}

void decode_i4_32(const void* blocks, float* out, std::int64_t n) noexcept {
  decode_i4<32>(blocks, out, n);
}
void decode_i4_64(const void* blocks, float* out, std::int64_t n) noexcept {
  decode_i4<64>(blocks, out, n);
}
void decode_i4_128(const void* blocks, float* out, std::int64_t n) noexcept {
  decode_i4<128>(blocks, out, n);
}

void encode_f8_e4m3_b128(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockF8_E4M3_B128*>(blocks);
  for (; n > 0; n -= 128, x += 128, ++b) {
    float top = 0.0f;
    for (int j = 0; j < 128; ++j) top = std::fmax(top, std::fabs(clean(x[j])));
    const bool flat = top < 0x1p-100f;
    const float inverse = flat ? 0.0f : 448.0f / top;
    b->scale = flat ? 0.0f : top / 448.0f;
    for (int j = 0; j < 128; ++j) b->q[j] = f32_to_fp8_e4m3(clean(x[j]) * inverse);
  }
}

void encode_i4_32(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  encode_i4<32>(x, blocks, n);
}
void encode_i4_64(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  encode_i4<64>(x, blocks, n);
}
void encode_i4_128(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  encode_i4<128>(x, blocks, n);
}

}  // namespace kt::formats
