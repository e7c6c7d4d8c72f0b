// What lies packed for the CPU becomes the same tiles as the rows of the file.
#include <random>

#include "kernels/cpu/dot/n16.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

using formats::Format;
using Bytes = std::vector<std::byte>;

struct PackN16 : OnDevice, ::testing::WithParamInterface<Format> {};

/// Random bytes; E4M3 wants scales that are not negative.
Bytes random_rows(Format format, std::size_t n, std::int64_t k, unsigned seed) {
  std::mt19937 random(seed);
  Bytes rows(n * formats::row_bytes(format, k));
  for (std::byte& b : rows) b = static_cast<std::byte>(random());
  if (format == Format::kF8_E4M3_B128) {
    for (std::size_t at = 3; at < rows.size(); at += 132) rows[at] &= std::byte{0x7f};
  }
  return rows;
}

TEST_P(PackN16, MakesTheTilesOfTheRows) {
  const Format format = GetParam();
  const auto& layout = *dot::n16_layout(format);
  const std::int64_t block = std::max<std::int64_t>(formats::traits(format).block_len, 32);
  for (const std::int64_t blocks : {1, 3, 8}) {
    for (const std::int64_t n : {16, 37, 160}) {
      constexpr std::int64_t kCount = 3;
      const std::int64_t k = blocks * block;
      const std::size_t row_bytes = formats::row_bytes(format, k);
      const std::size_t tile = layout.tile_bytes(k);
      const std::size_t stride = ((static_cast<std::size_t>(n) + 15) / 16 * tile + 63) / 64 * 64;
      const std::size_t packed = packed_bytes(format, n, k);
      Bytes n16(kCount * stride);
      Device<std::byte> want(kCount * static_cast<std::int64_t>(packed)),
          got(kCount * static_cast<std::int64_t>(packed));
      for (std::size_t i = 0; i < kCount; ++i) {
        const Bytes rows = random_rows(format, static_cast<std::size_t>(n), k, 10 + i);
        for (std::size_t r = 0; r < static_cast<std::size_t>(n); ++r) {
          layout.pack_row(rows.data() + r * row_bytes, k, static_cast<int>(r % 16),
                          n16.data() + i * stride + r / 16 * tile);
        }
        const Device<std::byte> file(rows);
        ASSERT_EQ(pack(format, file.get(), n, k, want.get() + i * packed, nullptr), Status::kOk);
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      }
      const Device<std::byte> from(n16);
      ASSERT_EQ(pack_n16({format, from.get(), stride, n, k, got.get(), packed, kCount}, nullptr),
                Status::kOk);
      EXPECT_EQ(got.host(), want.host()) << n << " x " << k;
    }
  }
}

std::vector<Format> expert_formats() {
  return {
#define EXPERTS(id) Format::id,
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS
  };
}

INSTANTIATE_TEST_SUITE_P(Formats, PackN16, ::testing::ValuesIn(expert_formats()),
                         [](const auto& param) {
                           return std::string(formats::traits(param.param).name);
                         });

TEST_F(OnDevice, PackN16RefusesWhatItCannotDo) {
  PackN16Args args{Format::kQ3_K, nullptr, 0, 16, 256, nullptr, 0, 1};
  EXPECT_EQ(pack_n16(args, nullptr), Status::kUnsupported);
  args.format = Format::kQ4_K;
  args.k = 255;
  EXPECT_EQ(pack_n16(args, nullptr), Status::kBadArgument);
}

}  // namespace
}  // namespace kt::kernels::cuda
