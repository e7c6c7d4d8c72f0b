// Short lists beside their slow twin, which is held against a sort on the host: ties, zeros of both
// signs, rows of all lengths, rows that cannot be listed, and the flag.
#include "kernels/cuda/sampling/sampling.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/test_random.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

using Sampling = OnDevice;

struct Rows {
  std::int64_t m, n, stride;
  std::vector<float> logits, scales;
  const float* row(std::int64_t i) const { return logits.data() + i * stride; }
};

Rows make_rows(std::int64_t m, std::int64_t n, std::int64_t stride, float spread) {
  Rows rows{m, n, stride, gaussian(m * stride, static_cast<std::uint32_t>(n + m)), {}};
  for (float& l : rows.logits) l *= spread;
  for (std::int64_t i = 0; i < m; ++i) rows.scales.push_back(0.5f + 0.3f * static_cast<float>(i));
  return rows;
}

using Function = Status (*)(const ListArgs&, Stream);
std::vector<RowList> lists_of(const Rows& rows, Function function) {
  const Device<float> logits(rows.logits), scales(rows.scales);
  const Device<RowList> lists(rows.m);
  ListArgs args;
  args.logits = logits.get();
  args.m = rows.m;
  args.n = rows.n;
  args.stride = rows.stride;
  args.scales = scales.get();
  args.lists = lists.get();
  args.workspace_bytes = list_rows_workspace(args);
  const Device<char> workspace(static_cast<std::int64_t>(args.workspace_bytes));
  args.workspace = workspace.get();
  EXPECT_EQ(function(args, nullptr), Status::kOk) << rows.n;
  return lists.host();
}

/// The slow twin's lists, each held against the row itself.
std::vector<RowList> expected_lists(const Rows& rows) {
  const std::vector<RowList> lists = lists_of(rows, list_rows_reference);
  for (std::int64_t r = 0; r < rows.m; ++r) {
    const RowList& list = lists[static_cast<std::size_t>(r)];
    const float* row = rows.row(r);
    std::vector<std::int32_t> order(static_cast<std::size_t>(rows.n));
    std::iota(order.begin(), order.end(), 0);
    const auto n = static_cast<std::ptrdiff_t>(std::min(rows.n, kListed));
    std::partial_sort(order.begin(), order.begin() + n, order.end(),
                      [&](std::int32_t a, std::int32_t b) {
                        return row[a] > row[b] || (row[a] == row[b] && a < b);
                      });
    EXPECT_EQ(list.n, n);
    double sum = 0.0, scaled = 0.0;
    for (std::int64_t i = 0; i < rows.n; ++i) {
      const double below = double{row[i]} - row[order[0]];
      sum += std::exp(below);
      scaled += std::exp(below * rows.scales[static_cast<std::size_t>(r)]);
    }
    EXPECT_NEAR(list.sum, sum, 1e-9 * sum);
    EXPECT_NEAR(list.scaled_sum, scaled, 1e-9 * scaled);
    EXPECT_EQ(list.largest, row[order[0]]);
    for (int i = 0; i < list.n; ++i) {
      const std::int32_t id = order[static_cast<std::size_t>(i)];
      EXPECT_EQ(list.ids[i], id) << i;
      EXPECT_EQ(list.logits[i], row[id]);
    }
  }
  return lists;
}

void expect_same(const std::vector<RowList>& got, const std::vector<RowList>& want) {
  for (std::size_t r = 0; r < got.size(); ++r) {
    ASSERT_EQ(got[r].n, want[r].n) << "row " << r;
    if (want[r].n == 0) continue;
    EXPECT_EQ(got[r].largest, want[r].largest);
    // Half of what is promised, so that other devices have the other half.
    EXPECT_NEAR(got[r].sum, want[r].sum, kListSumError / 2 * want[r].sum);
    EXPECT_NEAR(got[r].scaled_sum, want[r].scaled_sum, kListSumError / 2 * want[r].scaled_sum);
    int wrong = 0;
    for (int i = 0; i < want[r].n; ++i)
      wrong += got[r].ids[i] != want[r].ids[i] || got[r].logits[i] != want[r].logits[i] ? 1 : 0;
    EXPECT_EQ(wrong, 0) << "row " << r;
  }
}

void expect_agreement(const Rows& rows) {
  expect_same(lists_of(rows, list_rows), expected_lists(rows));
}

TEST_F(Sampling, ListsOfRowsOfAllLengths) {
  for (const std::int64_t n : {1, 2, 97, 255, 256, 257, 1023, 1024, 1025, 4099, 8192, 32000, 50257,
                               102400, 151936, 262208}) {
    expect_agreement(make_rows(n > 100000 ? 2 : 3, n, n, 3.0f));
  }
  expect_agreement(make_rows(3, 32003, 32004, 3.0f));
  expect_agreement(make_rows(2, 1 << 20, 1 << 20, 3.0f));
  expect_agreement(make_rows(40, 5000, 5001, 0.01f));
  expect_agreement(make_rows(2, 50000, 50000, 1e-30f));
  expect_agreement(make_rows(2, 50000, 50000, 1e30f));
}

TEST_F(Sampling, OfEqualsTheFirstAreListed) {
  for (const float step : {0.25f, 0.0625f}) {
    Rows rows = make_rows(3, 151936, 151936, 3.0f);
    for (float& l : rows.logits) l = std::round(l / step) * step;  // zeros of both signs
    expect_agreement(rows);
  }
  Rows zeros = make_rows(1, 700, 700, 0.0f);
  for (std::size_t i = 0; i < zeros.logits.size(); i += 3) zeros.logits[i] = -0.0f;
  expect_agreement(zeros);
  // More equals than there is room for: all, or behind some that are larger, some late.
  Rows equals = make_rows(1, 151936, 151936, 0.0f);
  expect_agreement(equals);
  for (const std::size_t i : {5, 90000, 151935}) equals.logits[i] = 2.0f;
  expect_agreement(equals);
  for (std::size_t i = 0; i < 100000; ++i) equals.logits[i] -= 1.0f;
  expect_agreement(equals);
  Rows turns = make_rows(2, 151936, 151936, 3.0f);  // as models of random weights have them
  for (std::size_t i = 251; i < turns.logits.size(); ++i) turns.logits[i] = turns.logits[i - 251];
  expect_agreement(turns);
  // The largest beside each other, and one far above.
  Rows cluster = make_rows(1, 151936, 151936, 1.0f);
  for (std::size_t i = 70000; i < 70300; ++i) cluster.logits[i] += 30.0f;
  cluster.logits[99999] = 3e38f;
  expect_agreement(cluster);
}

TEST_F(Sampling, RowsThatCannotBeListedSaySo) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    Rows rows = make_rows(3, 9001, 9001, 3.0f);
    rows.logits[static_cast<std::size_t>(rows.stride + 9000)] = value;
    const std::vector<RowList> lists = lists_of(rows, list_rows);
    EXPECT_EQ(lists[0].n, kListed);
    EXPECT_EQ(lists[1].n, 0);
    EXPECT_EQ(lists[2].n, kListed);
    EXPECT_EQ(lists_of(rows, list_rows_reference)[1].n, 0);
  }
  // More that are larger than all others, in groups together, than there is room for.
  Rows rows = make_rows(1, 151936, 151936, 1.0f);
  for (std::size_t i = 0; i < 1024; ++i) rows.logits[i] += 30.0f;
  EXPECT_EQ(lists_of(rows, list_rows)[0].n, 0);
}

TEST_F(Sampling, ListsInPinnedMemoryAreThereBeforeTheFlag) {
  const Rows rows = make_rows(32, 151936, 151936, 3.0f);
  const Device<float> logits(rows.logits), scales(rows.scales);
  void* pinned = nullptr;
  const std::size_t bytes = sizeof(RowList) * 32;
  ASSERT_EQ(cudaHostAlloc(&pinned, bytes + 256, cudaHostAllocMapped), cudaSuccess);
  std::memset(pinned, 0, bytes + 256);
  void* address = nullptr;
  ASSERT_EQ(cudaHostGetDevicePointer(&address, pinned, 0), cudaSuccess);
  ListArgs args;
  args.logits = logits.get();
  args.m = 32;
  args.n = args.stride = rows.n;
  args.scales = scales.get();
  args.lists = static_cast<RowList*>(address);
  args.flag = reinterpret_cast<std::uint32_t*>(static_cast<char*>(address) + bytes);
  args.workspace_bytes = list_rows_workspace(args);
  const Device<char> workspace(static_cast<std::int64_t>(args.workspace_bytes));
  args.workspace = workspace.get();
  const auto* flag = reinterpret_cast<std::uint32_t*>(static_cast<char*>(pinned) + bytes);
  const std::vector<RowList> want = lists_of(rows, list_rows);
  for (std::uint32_t value = 1; value <= 20; ++value) {
    std::memset(pinned, 0, bytes);
    args.value = value;
    ASSERT_EQ(list_rows(args, nullptr), Status::kOk);
    while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) != value) {
      const cudaError_t error = cudaStreamQuery(nullptr);
      ASSERT_TRUE(error == cudaSuccess || error == cudaErrorNotReady) << cudaGetErrorString(error);
    }
    const auto* lists = static_cast<const RowList*>(pinned);
    expect_same({lists, lists + 32}, want);
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  cudaFreeHost(pinned);
}

TEST_F(Sampling, RefusesWhatItCannotDo) {
  ListArgs args;
  args.m = 1;
  args.n = args.stride = (1 << 20) + 1;
  EXPECT_EQ(list_rows(args, nullptr), Status::kUnsupported);
  args.n = 100;
  EXPECT_EQ(list_rows(args, nullptr), Status::kNoWorkspace);
  args.stride = 99;
  EXPECT_EQ(list_rows(args, nullptr), Status::kBadArgument);
  args.stride = 100;
  args.m = 0;
  EXPECT_EQ(list_rows(args, nullptr), Status::kBadArgument);
}

}  // namespace
}  // namespace kt::kernels::cuda
