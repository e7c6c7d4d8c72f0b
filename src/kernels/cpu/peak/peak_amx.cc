// AMX: four tiles of sums from two A and two B tiles, which stay in their registers.
#include "kernels/cpu/peak/peak.h"
#include "kernels/cpu/tile_config_amx.h"

namespace kt::kernels::peak {
namespace {

void load_tiles() {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.n_rows[tile] = 16;
  load_tile_config(config);
  alignas(64) std::uint8_t ones[16 * 64];
  for (std::uint8_t& v : ones) v = 1;
  asm volatile("" ::"r"(ones) : "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
}

}  // namespace

void peak_int8_amx(std::int64_t rounds) noexcept;
void peak_int8_amx(std::int64_t rounds) noexcept {
  load_tiles();
  for (std::int64_t r = 0; r < rounds; ++r) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}

void peak_bf16_amx(std::int64_t rounds) noexcept;
void peak_bf16_amx(std::int64_t rounds) noexcept {
  load_tiles();
  for (std::int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

}  // namespace kt::kernels::peak
