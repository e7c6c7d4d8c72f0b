// Memory and transfers of a step, on a stand-in of a GPU (backend/gpu/test_fixtures).
#include "operators/gpu_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "operators/activation.h"

namespace kt::operators {
namespace {

class GpuStepTest : public ::testing::Test {
 protected:
  GpuStepTest()
      : gpu_(backend::GpuLibrary::open(KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so"), 0, kReserved),
        pool_(1, {}),
        step_(gpu_, pool_) {}

  static constexpr std::size_t kReserved = std::size_t{1} << 30;
  backend::Gpu gpu_;
  ThreadPool pool_;
  GpuStep step_;
};

TEST_F(GpuStepTest, RowsLargerThanThePinnedMemoryGoThereAndBack) {
  constexpr std::int64_t kRows = 2, kCols = GpuStep::kStagingBytes / 4 + 5, kStride = kCols + 3;
  std::vector<float> from(kRows * kStride), to(from.size());
  std::iota(from.begin(), from.end(), 0.0f);
  auto* there = gpu_.allocate<float>(kRows * kCols);
  step_.upload({from.data(), kRows, kCols, kStride}, there, GpuType::kF32);
  const GpuStep::Fetch fetch{there, GpuType::kF32, {to.data(), kRows, kCols, kStride}};
  step_.download({&fetch, 1});
  ASSERT_EQ(step_.error(), "");
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto row = from.begin() + r * kStride;
    EXPECT_TRUE(std::equal(row, row + kCols, to.begin() + r * kStride)) << r;
    EXPECT_EQ(there[r * kCols], row[0]);
  }
}

TEST_F(GpuStepTest, RequestsThatGrowTakeNoMoreThanTheLargest) {
  ASSERT_NE(step_.allocate(1000), nullptr);
  for (std::size_t mib = 50; mib <= 900; mib += 50) {
    const std::size_t mark = step_.mark();
    ASSERT_NE(step_.allocate(mib << 20), nullptr) << step_.error();
    step_.release(mark);
  }
  EXPECT_LT(gpu_.used(), std::size_t{1000} << 20);
}

TEST_F(GpuStepTest, MemoryBehindWhatOthersTookIsANewPiece) {
  void* first = step_.allocate(std::size_t{60} << 20);
  std::byte* other = gpu_.allocate_bytes(1000);
  void* second = step_.allocate(std::size_t{10} << 20);
  ASSERT_NE(second, nullptr);
  EXPECT_LT(first, static_cast<void*>(other));
  EXPECT_GT(second, static_cast<void*>(other));
}

}  // namespace
}  // namespace kt::operators
