#include "formats/k_quants.h"

#include "base/half.h"

namespace kt::formats {

void unpack_scales_k4(const std::uint8_t packed[12], std::uint8_t sc[8],
                      std::uint8_t m[8]) noexcept {
  for (int j = 0; j < 4; ++j) {
    sc[j] = packed[j] & 63;
    m[j] = packed[j + 4] & 63;
    sc[j + 4] = static_cast<std::uint8_t>((packed[j + 8] & 15) | ((packed[j] >> 2) & 0x30));
    m[j + 4] = static_cast<std::uint8_t>((packed[j + 8] >> 4) | ((packed[j + 4] >> 2) & 0x30));
  }
}

void pack_scales_k4(const std::uint8_t sc[8], const std::uint8_t m[8],
                    std::uint8_t packed[12]) noexcept {
  for (int j = 0; j < 4; ++j) {
    packed[j] = static_cast<std::uint8_t>((sc[j] & 63) | ((sc[j + 4] & 0x30) << 2));
    packed[j + 4] = static_cast<std::uint8_t>((m[j] & 63) | ((m[j + 4] & 0x30) << 2));
    packed[j + 8] = static_cast<std::uint8_t>((sc[j + 4] & 15) | ((m[j + 4] & 15) << 4));
  }
}

// Bytes 0-7 hold the low 4 bits of scales j (low nibble) and j + 8 (high); byte 8 + j % 4 holds the
// high 2 bits of scales j, j + 4, j + 8 and j + 12.
void unpack_scales_q3_k(const std::uint8_t packed[12], std::int8_t sc[16]) noexcept {
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
    const int high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
    sc[j] = static_cast<std::int8_t>((low | (high << 4)) - 32);
  }
}

void pack_scales_q3_k(const std::int8_t sc[16], std::uint8_t packed[12]) noexcept {
  for (int j = 0; j < 12; ++j) packed[j] = 0;
  for (int j = 0; j < 16; ++j) {
    const int v = sc[j] + 32;
    packed[j % 8] |= static_cast<std::uint8_t>((v & 15) << (j < 8 ? 0 : 4));
    packed[8 + j % 4] |= static_cast<std::uint8_t>((v >> 4) << (2 * (j / 4)));
  }
}

void decode_q2_k(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ2_K*>(blocks);
  for (; n > 0; n -= kSuperBlock, out += kSuperBlock, ++b) {
    const float d = fp16_to_f32(b->d), dmin = fp16_to_f32(b->dmin);
    for (int s = 0; s < 16; ++s) {
      const float dl = d * static_cast<float>(b->scales[s] & 15);
      const float ml = dmin * static_cast<float>(b->scales[s] >> 4);
      const std::uint8_t* qs = b->qs + 32 * (s / 8) + 16 * (s % 2);
      const int shift = 2 * ((s % 8) / 2);
      for (int l = 0; l < 16; ++l) {
        out[16 * s + l] = dl * static_cast<float>((qs[l] >> shift) & 3) - ml;
      }
    }
  }
}

void decode_q3_k(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ3_K*>(blocks);
  for (; n > 0; n -= kSuperBlock, out += kSuperBlock, ++b) {
    std::int8_t sc[16];
    unpack_scales_q3_k(b->scales, sc);
    const float d = fp16_to_f32(b->d);
    for (int s = 0; s < 16; ++s) {
      const float dl = d * static_cast<float>(sc[s]);
      const std::uint8_t* qs = b->qs + 32 * (s / 8) + 16 * (s % 2);
      const std::uint8_t* hm = b->hmask + 16 * (s % 2);
      for (int l = 0; l < 16; ++l) {
        const int low = (qs[l] >> (2 * ((s % 8) / 2))) & 3;
        const int high = (hm[l] >> (s / 2)) & 1;
        out[16 * s + l] = dl * static_cast<float>(low + 4 * high - 4);
      }
    }
  }
}

void decode_q4_k(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ4_K*>(blocks);
  for (; n > 0; n -= kSuperBlock, out += kSuperBlock, ++b) {
    std::uint8_t sc[8], m[8];
    unpack_scales_k4(b->scales, sc, m);
    const float d = fp16_to_f32(b->d), dmin = fp16_to_f32(b->dmin);
    for (int s = 0; s < 8; ++s) {
      const float dl = d * static_cast<float>(sc[s]), ml = dmin * static_cast<float>(m[s]);
      const std::uint8_t* qs = b->qs + 32 * (s / 2);
      for (int l = 0; l < 32; ++l) {
        out[32 * s + l] = dl * static_cast<float>((qs[l] >> (4 * (s % 2))) & 15) - ml;
      }
    }
  }
}

void decode_q5_k(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ5_K*>(blocks);
  for (; n > 0; n -= kSuperBlock, out += kSuperBlock, ++b) {
    std::uint8_t sc[8], m[8];
    unpack_scales_k4(b->scales, sc, m);
    const float d = fp16_to_f32(b->d), dmin = fp16_to_f32(b->dmin);
    for (int s = 0; s < 8; ++s) {
      const float dl = d * static_cast<float>(sc[s]), ml = dmin * static_cast<float>(m[s]);
      const std::uint8_t* qs = b->qs + 32 * (s / 2);
      for (int l = 0; l < 32; ++l) {
        const int q = ((qs[l] >> (4 * (s % 2))) & 15) | (((b->qh[l] >> s) & 1) << 4);
        out[32 * s + l] = dl * static_cast<float>(q) - ml;
      }
    }
  }
}

void decode_q6_k(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ6_K*>(blocks);
  for (; n > 0; n -= kSuperBlock, out += kSuperBlock, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int s = 0; s < 16; ++s) {
      const float dl = d * static_cast<float>(b->scales[s]);
      const int half = s / 8, t = s % 8;  // values 128*half + 16*t + l
      const std::uint8_t* ql = b->ql + 64 * half + 16 * (t % 4);
      const std::uint8_t* qh = b->qh + 32 * half + 16 * (t % 2);
      for (int l = 0; l < 16; ++l) {
        const int low = (ql[l] >> (4 * (t / 4))) & 15;
        const int high = (qh[l] >> (2 * (t / 2))) & 3;
        out[16 * s + l] = dl * static_cast<float>((low | (high << 4)) - 32);
      }
    }
  }
}

void decode_q8_k(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ8_K*>(blocks);
  for (; n > 0; n -= kSuperBlock, out += kSuperBlock, ++b) {
    const float d = b->d;
    for (int l = 0; l < kSuperBlock; ++l) out[l] = d * static_cast<float>(b->qs[l]);
  }
}

}  // namespace kt::formats
