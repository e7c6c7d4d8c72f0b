// The AMX tile configuration (Intel SDM, LDTILECFG: palette 1). Only sources built for AMX include
// it.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace kt::kernels {
namespace {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t n_rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

[[gnu::always_inline]] inline void load_tile_config(const TileConfig& config) {
  // GCC before 12.4 drops stores that only _tile_loadconfig reads (bug 114098).
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
}

}  // namespace
}  // namespace kt::kernels
