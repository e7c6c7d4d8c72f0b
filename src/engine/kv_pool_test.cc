#include "engine/kv_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>

namespace kt::engine {
namespace {

using tensor::Format;

std::vector<tensor::KvLayerSpec> two_layers() {
  return {{{{"k", 2, 32}, {"v", 2, 64}}}, {{{"latent", 1, 96}}}};
}

TEST(KvPool, BytesPerToken) {
  EXPECT_EQ(kv_bytes_per_token(two_layers(), Format::kF16), (2u * 32 + 2 * 64 + 96) * 2);
  EXPECT_EQ(kv_bytes_per_token(two_layers(), Format::kF32), (2u * 32 + 2 * 64 + 96) * 4);
  EXPECT_EQ(kv_bytes_per_token(two_layers(), Format::kQ8_0), (2u + 4 + 3) * 34);
  EXPECT_EQ(kv_bytes_per_token(two_layers(), Format::kF8_E4M3), 2u * 32 + 2 * 64 + 96);
  EXPECT_EQ(kv_bytes_per_token({}, Format::kF16), 0u);
}

TEST(KvPool, KeepsWhatTheDeviceOfALayerTakes) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  std::vector<tensor::KvLayerSpec> layers = two_layers();
  layers[1].gpu = 0;  // no GPU is given, so its rows are in main memory
  for (const auto& [asked, on_gpu] : {std::pair{Format::kF16, Format::kBF16},
                                      {Format::kBF16, Format::kBF16},
                                      {Format::kF8_E4M3, Format::kF8_E4M3}}) {
    const KvPool pool(layers, asked, 3 * tensor::kKvPageLen, cpu);
    EXPECT_EQ(pool.layers()[0].streams[0].format, asked);
    EXPECT_EQ(pool.layers()[1].streams[0].format, on_gpu);
    EXPECT_EQ(pool.layers()[1].streams[0].row_bytes, formats::row_bytes(on_gpu, 96));
    EXPECT_EQ(pool.layers()[1].streams[0].n_pages, 3);
  }
}

TEST(KvPool, RefusesVectorsThatAreNoWholeBlocks) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  const std::vector<tensor::KvLayerSpec> odd = {{{{"k", 1, 48}}}};
  EXPECT_NO_THROW(KvPool(odd, Format::kF16, 1, cpu));
  try {
    KvPool(odd, Format::kQ8_0, 1, cpu);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
  }
}

TEST(KvPool, HandsOutEveryPageOnce) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF16, 3 * tensor::kKvPageLen + 1, cpu);
  ASSERT_EQ(pool.n_pages(), 4);
  std::set<std::int32_t> pages;
  for (int i = 0; i < 4; ++i) pages.insert(pool.take());
  EXPECT_EQ(pages, (std::set<std::int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(pool.take(), -1);
  EXPECT_EQ(pool.n_free(), 0);
  pool.give_back(2);
  EXPECT_EQ(pool.n_free(), 1);
  EXPECT_EQ(pool.take(), 2);
}

TEST(KvPool, ASharedPageIsFreeWhenItsLastUserIsGone) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF16, tensor::kKvPageLen, cpu);
  const std::int32_t page = pool.take();
  pool.share(page);
  pool.give_back(page);
  EXPECT_EQ(pool.n_free(), 0);
  pool.give_back(page);
  EXPECT_EQ(pool.n_free(), 1);
}

TEST(KvPool, CopyCopiesEveryRowOfEveryStream) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF32, 2 * tensor::kKvPageLen, cpu);
  const std::int32_t from = pool.take(), to = pool.take();
  const auto each = [&](std::int32_t page, auto&& f) {
    float mark = 0;
    for (const tensor::KvLayerView& layer : pool.layers()) {
      for (const tensor::KvStreamView& s : layer.streams) {
        if (s.base == nullptr) continue;
        const std::int64_t n = s.n_heads * s.dim * tensor::kKvPageLen;
        for (std::int64_t i = 0; i < n; ++i)
          f(reinterpret_cast<float*>(s.at(&page, 0, 0))[i], ++mark);
      }
    }
  };
  each(from, [](float& value, float mark) { value = mark; });
  each(to, [](float& value, float) { value = 0; });
  pool.copy(from, to);
  each(to, [](float& value, float mark) { ASSERT_EQ(value, mark); });
}

TEST(KvPool, RowsOfAllPagesAreDisjointAndInside) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF32, 2 * tensor::kKvPageLen, cpu);
  ASSERT_EQ(pool.layers().size(), 2u);
  const std::int32_t table[] = {pool.take(), pool.take()};
  const std::int64_t n = 2 * tensor::kKvPageLen;
  const auto each = [&](auto&& f) {
    int mark = 0;
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (int stream = 0; stream < (layer == 0 ? 2 : 1); ++stream) {
        const tensor::KvStreamView& s = pool.layers()[layer].streams[stream];
        for (std::int64_t p = 0; p < n; ++p) {
          for (std::int64_t h = 0; h < s.n_heads; ++h) f(s, s.at(table, p, h), ++mark);
        }
      }
    }
  };
  each([](const tensor::KvStreamView& s, std::byte* at, int mark) {
    for (std::int64_t i = 0; i < s.dim; ++i)
      reinterpret_cast<float*>(at)[i] = static_cast<float>(mark);
  });
  each([](const tensor::KvStreamView& s, std::byte* at, int mark) {
    for (std::int64_t i = 0; i < s.dim; ++i) {
      ASSERT_EQ(reinterpret_cast<float*>(at)[i], static_cast<float>(mark));
    }
  });
}

TEST(KvPool, IsDealtOutOverTheNodes) {
  backend::CpuPlace place;
  place.workers = {{3, 1, {}}, {5, 1, {}}};
  std::vector<std::span<std::byte>> bound;
  place.bind = [&](std::span<std::byte> pages, std::span<const int> nodes) {
    EXPECT_EQ((std::vector<int>{nodes.begin(), nodes.end()}), (std::vector<int>{3, 5}));
    bound.push_back(pages);
    return 0;
  };
  backend::Cpu cpu(place, 0, backend::ActPolicy::kF32);
  const KvPool pool(two_layers(), Format::kF32, 1000, cpu);
  ASSERT_EQ(bound.size(), 3u);
  EXPECT_EQ(pool.layers()[0].streams[1].base, bound[1].data());
}

// Writes `value` to every byte of one row of the first stream.
void fill_row(KvPool& pool, const PageTable& pages, std::int64_t position, int value) {
  const tensor::KvStreamView& s = pool.layers()[0].streams[0];
  std::memset(s.at(pages.data(), position, 0), value, s.row_bytes);
}

int row_value(const KvPool& pool, const PageTable& pages, std::int64_t position) {
  return std::to_integer<int>(*pool.layers()[0].streams[0].at(pages.data(), position, 0));
}

TEST(PageTable, AForkWritesItsOwnCopy) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF16, 4 * tensor::kKvPageLen, cpu);
  PageTable one;
  ASSERT_TRUE(one.make_room(pool, 0, 70));
  fill_row(pool, one, 3, 1);
  fill_row(pool, one, 65, 2);
  PageTable two = one.share(pool, 70);
  EXPECT_EQ(pool.n_free(), 2);
  EXPECT_EQ(two.n_wanted(pool, 70, 71), 1);
  ASSERT_TRUE(two.make_room(pool, 70, 71));
  fill_row(pool, two, 65, 3);
  EXPECT_EQ(row_value(pool, one, 65), 2);
  EXPECT_EQ(row_value(pool, two, 3), 1);
  EXPECT_EQ(one.n_wanted(pool, 70, 71), 0);  // it has the page alone again
  two.truncate(pool, 0);
  EXPECT_EQ(pool.n_free(), 2);
  one.truncate(pool, 0);
  EXPECT_EQ(pool.n_free(), 4);
}

TEST(PageTable, TellsWhenNoPageIsFree) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF16, 2 * tensor::kKvPageLen, cpu);
  PageTable one;
  ASSERT_TRUE(one.make_room(pool, 0, 2 * tensor::kKvPageLen - 1));
  PageTable two = one.share(pool, 2 * tensor::kKvPageLen - 1);
  EXPECT_FALSE(two.make_room(pool, 2 * tensor::kKvPageLen - 1, 2 * tensor::kKvPageLen));
  one.truncate(pool, tensor::kKvPageLen);
  EXPECT_TRUE(two.make_room(pool, 2 * tensor::kKvPageLen - 1, 2 * tensor::kKvPageLen));
}

TEST(KvPool, RefusesSizesThatNothingHolds) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF16, 1, cpu);
  for (const std::int64_t n : {std::int64_t{1} << 40, std::numeric_limits<std::int64_t>::max()}) {
    try {
      pool.grow(n, cpu);
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kNoMemory);
    }
  }
  EXPECT_EQ(pool.n_pages(), 1);
}

TEST(KvPool, GrowsAndKeepsRows) {
  backend::Cpu cpu(1, {}, 0, backend::ActPolicy::kF32);
  KvPool pool(two_layers(), Format::kF16, tensor::kKvPageLen, cpu);
  PageTable pages;
  ASSERT_TRUE(pages.make_room(pool, 0, 10));
  fill_row(pool, pages, 9, 7);
  EXPECT_FALSE(pages.make_room(pool, 10, 100));
  pool.grow(3 * tensor::kKvPageLen, cpu);
  ASSERT_TRUE(pages.make_room(pool, 10, 100));
  EXPECT_EQ(row_value(pool, pages, 9), 7);
  EXPECT_EQ(pool.n_free(), 1);
}

}  // namespace
}  // namespace kt::engine
