#include "formats/plain.h"

#include <cstring>

#include "base/half.h"

namespace kt::formats {
namespace {

// Through memcpy: safetensors rows need not be aligned.
template <float (*kConvert)(std::uint16_t)>
void decode_16(const void* blocks, float* out, std::int64_t n) {
  const auto* bytes = static_cast<const unsigned char*>(blocks);
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint16_t v;
    std::memcpy(&v, bytes + 2 * i, 2);
    out[i] = kConvert(v);
  }
}

template <std::uint16_t (*kConvert)(float)>
void encode_16(const float* x, void* blocks, std::int64_t n) {
  auto* bytes = static_cast<unsigned char*>(blocks);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint16_t v = kConvert(x[i]);
    std::memcpy(bytes + 2 * i, &v, 2);
  }
}

}  // namespace

void decode_f32(const void* blocks, float* out, std::int64_t n) noexcept {
  if (n > 0) std::memcpy(out, blocks, static_cast<std::size_t>(n) * 4);
}

void decode_f16(const void* blocks, float* out, std::int64_t n) noexcept {
  decode_16<fp16_to_f32>(blocks, out, n);
}

void decode_bf16(const void* blocks, float* out, std::int64_t n) noexcept {
  decode_16<bf16_to_f32>(blocks, out, n);
}

void decode_f8_e4m3(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* codes = static_cast<const std::uint8_t*>(blocks);
  for (std::int64_t i = 0; i < n; ++i) out[i] = fp8_e4m3_to_f32(codes[i]);
}

void encode_f32(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  if (n > 0) std::memcpy(blocks, x, static_cast<std::size_t>(n) * 4);
}

void encode_f16(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  encode_16<f32_to_fp16>(x, blocks, n);
}

void encode_bf16(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  encode_16<f32_to_bf16>(x, blocks, n);
}

void encode_f8_e4m3(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* codes = static_cast<std::uint8_t*>(blocks);
  for (std::int64_t i = 0; i < n; ++i) codes[i] = f32_to_fp8_e4m3(x[i]);
}

}  // namespace kt::formats
