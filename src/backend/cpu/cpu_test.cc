// Packed weights kept outside of a PackedMatrix, as the ops of the Python package keep them.
#include "backend/cpu/cpu.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/test_random.h"

namespace kt::backend {
namespace {

std::vector<float> product(Cpu& cpu, const PackedMatrix& matrix, std::int64_t m) {
  tensor::Arena arena;
  const auto x = gaussian(m * matrix.k(), 3);
  Activation act({x.data(), m, matrix.k(), matrix.k()});
  std::vector<float> out(static_cast<std::size_t>(m * matrix.n()));
  const GemmCall call = {&matrix,
                         act.rows_for(matrix, cpu, arena),
                         m,
                         nullptr,
                         {out.data(), m, matrix.n(), matrix.n()}};
  gemm(cpu, {&call, 1});
  return out;
}

// 40 rows run the tile kernels (here or their slow twins), which need the exponents too.
TEST(PackedMatrix, CanBePlacedOnPacksOfAnother) {
  Cpu cpu(2, {}, detect_caps(), ActPolicy::kQ16);
  cpu.batch_kernels = BatchKernels::kAll;
  for (const tensor::Format format :
       {tensor::Format::kQ4_K, tensor::Format::kQ8_0, tensor::Format::kBF16}) {
    const std::int64_t n = 50, k = 256;
    const auto values = gaussian(n * k, 7);
    std::vector<std::byte> rows(formats::row_bytes(format, k) * static_cast<std::size_t>(n));
    formats::traits(format).encode(values.data(), nullptr, rows.data(), n * k);
    const tensor::Buffer bytes(packed_matrix_bytes(cpu.caps, cpu.act, format, n, k));
    PackedMatrix packed(cpu, format, n, k), placed(cpu, format, n, k);
    packed.place(bytes.data());
    packed.pack_rows(0, n, rows.data());
    placed.place(bytes.data());
    const auto from = std::as_const(packed).exponents();
    ASSERT_EQ(from.size(), placed.exponents().size());
    std::copy(from.begin(), from.end(), placed.exponents().begin());
    for (const std::int64_t m : {1, 40}) {
      EXPECT_EQ(product(cpu, placed, m), product(cpu, packed, m))
          << formats::traits(format).name << ", " << m;
    }
  }
}

TEST(PackedMatrix, LargeStepsOfBf16AndFp8TakeBf16VectorsWhereThereAreNoTiles) {
  using Act = kernels::dot::Act;
  using tensor::Format;
  constexpr CpuCaps kVectors = kAvx2 | kAvx512 | kAvx512Vnni | kAvx512Bf16;
  const auto form = [](CpuCaps caps, ActPolicy act, Format format, std::int64_t n_rows,
                       std::int64_t n_each) {
    return PackedMatrix(Cpu(1, {}, caps, act), format, 16, 256).form(n_rows, n_each);
  };
  for (const Format format : {Format::kBF16, Format::kF8_E4M3_B128}) {
    for (const ActPolicy act : {ActPolicy::kQ16, ActPolicy::kQ8}) {
      EXPECT_EQ(form(kVectors, act, format, kBatchRows, kBatchRows), Act::kBf16);
      EXPECT_EQ(form(kVectors, act, format, kBatchRows - 1, kBatchRows - 1), Act::kF32);
      EXPECT_EQ(form(kVectors, act, format, 512, kBatchRowsEachVectors), Act::kBf16);
      EXPECT_EQ(form(kVectors, act, format, 512, kBatchRowsEachVectors - 1), Act::kF32);
      EXPECT_EQ(form(kVectors & ~kAvx512Bf16, act, format, 512, 512), Act::kF32);
    }
    EXPECT_EQ(form(kVectors, ActPolicy::kF32, format, 512, 512), Act::kF32);
  }
  EXPECT_EQ(form(kVectors, ActPolicy::kQ16, Format::kQ8_0, 512, 512), Act::kQ8);
  EXPECT_EQ(form(kVectors, ActPolicy::kQ16, Format::kF32, 512, 512), Act::kF32);
  EXPECT_EQ(form(kVectors, ActPolicy::kQ16, Format::kF16, 512, 512), Act::kF32);
  const Cpu cpu(1, {}, kVectors, ActPolicy::kQ16);
  EXPECT_EQ(&cpu.attention_for(512), cpu.attention);
}

}  // namespace
}  // namespace kt::backend
