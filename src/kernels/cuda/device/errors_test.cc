// Errors belong to the call that failed.
#include "kernels/cuda/device/errors.h"

#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

constexpr int kNoDevice = 1 << 20;

TEST_F(OnDevice, ErrorsAreKeptForTheirTextAlone) {
  EXPECT_EQ(status_of(cudaSuccess), Status::kOk);
  DeviceInfo info;
  EXPECT_EQ(describe_device(kNoDevice, &info), Status::kDeviceFailed);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  const std::string text = device_error_text();
  EXPECT_NE(text, "no error");
  EXPECT_EQ(device_error_text(), text);
  remember_error("flag %d", 7);
  EXPECT_STREQ(device_error_text(), "flag 7");
}

TEST_F(OnDevice, AFailedCallFailsNoLaterLaunch) {
  DeviceInfo info;
  ASSERT_EQ(describe_device(kNoDevice, &info), Status::kDeviceFailed);
  const Device<std::uint16_t> rows(16 * 32);
  Device<std::byte> tiles(static_cast<std::int64_t>(packed_bytes(formats::Format::kBF16, 16, 32)));
  EXPECT_EQ(pack(formats::Format::kBF16, rows.get(), 16, 32, tiles.get(), nullptr), Status::kOk);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace kt::kernels::cuda
