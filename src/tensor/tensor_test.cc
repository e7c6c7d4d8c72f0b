#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include "tensor/arena.h"
#include "tensor/kv_view.h"

namespace kt::tensor {
namespace {

TEST(Shape, RowsAndColumns) {
  const Shape s = {4, 5, 6};
  EXPECT_EQ(s.n_cols(), 6);
  EXPECT_EQ(s.n_rows(), 20);
  EXPECT_EQ(s.to_string(), "[4, 5, 6]");
  EXPECT_EQ(Shape({7}).n_rows(), 1);
}

TEST(Arena, ReusesMemoryAndMergesChunks) {
  Arena arena;
  float* first = arena.allocate<float>(100);
  const std::size_t mark = arena.mark();
  arena.allocate<float>(50);
  arena.release(mark);
  float* again = arena.allocate<float>(50);
  EXPECT_EQ(again, first + 112);  // 100 floats rounded up to 64 bytes
  arena.allocate<float>(4 << 20);
  const std::size_t capacity = arena.capacity();
  arena.reset();
  arena.allocate<float>(4 << 20);
  arena.allocate<float>(100);
  EXPECT_EQ(arena.capacity(), capacity);
}

TEST(Arena, AllocationsDoNotOverlapAcrossChunks) {
  Arena arena;
  std::vector<std::pair<float*, float>> parts;
  for (int i = 0; i < 200; ++i) {
    float* p = arena.allocate<float>(30000);
    for (int j = 0; j < 30000; j += 999) p[j] = static_cast<float>(i);
    parts.emplace_back(p, static_cast<float>(i));
  }
  for (const auto& [p, value] : parts) EXPECT_EQ(p[0], value);
}

TEST(KvView, CacheFormats) {
  EXPECT_TRUE(cache_format_fits(Format::kQ8_0, 64));
  EXPECT_FALSE(cache_format_fits(Format::kQ8_0, 40));
  EXPECT_FALSE(cache_format_fits(Format::kQ4_K, 256));
}

TEST(Buffer, MovesAndAligns) {
  Buffer a(100);
  std::byte* p = a.data();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 64, 0u);
  Buffer b(std::move(a));
  EXPECT_EQ(b.data(), p);
  EXPECT_EQ(a.data(), nullptr);
  EXPECT_EQ(Buffer().size(), 0u);
}

}  // namespace
}  // namespace kt::tensor
