// What the tests of the CUDA kernels share: device memory that frees itself, a stream, comparisons,
// random data. Output memory starts as NaN, so that a value that no kernel wrote is seen. Thread
// rule: one thread.
#pragma once
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/half.h"
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// n elements of device memory.
template <class T>
class Device {
 public:
  explicit Device(std::int64_t n) : n_(n) {
    EXPECT_EQ(cudaMalloc(&data_, bytes() + 1), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0xff, bytes()), cudaSuccess);  // NaN in every floating-point type
  }
  explicit Device(const std::vector<T>& host) : Device(static_cast<std::int64_t>(host.size())) {
    EXPECT_EQ(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~Device() { cudaFree(data_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  T* get() const { return data_; }
  std::size_t bytes() const { return static_cast<std::size_t>(n_) * sizeof(T); }
  void zero() { EXPECT_EQ(cudaMemset(data_, 0, bytes()), cudaSuccess); }
  /// Waits for all work, then copies back.
  std::vector<T> host() const {
    std::vector<T> out(static_cast<std::size_t>(n_));
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << device_error_text();
    EXPECT_EQ(cudaMemcpy(out.data(), data_, bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return out;
  }

 private:
  std::int64_t n_;
  T* data_ = nullptr;
};

inline std::vector<float> as_floats(const std::vector<std::uint16_t>& bf16) {
  std::vector<float> out;
  for (const std::uint16_t v : bf16) out.push_back(bf16_to_f32(v));
  return out;
}
inline std::vector<std::uint16_t> as_bf16(const std::vector<float>& x) {
  std::vector<std::uint16_t> out;
  for (const float v : x) out.push_back(f32_to_bf16(v));
  return out;
}
/// The values that remain after rounding to bf16.
inline std::vector<float> rounded(const std::vector<float>& x) { return as_floats(as_bf16(x)); }

/// One value against its bound; NaN never passes. Prints the first few that fail.
class Compare {
 public:
  explicit Compare(std::string what) : what_(std::move(what)) {}
  void value(double got, double want, double bound, std::int64_t i) {
    if (std::fabs(got - want) <= bound) return;
    if (++n_bad_ <= 3) {
      ADD_FAILURE() << what_ << " [" << i << "]: got " << got << ", want " << want << ", bound "
                    << bound;
    }
  }
  ~Compare() {
    if (n_bad_ > 3) ADD_FAILURE() << what_ << ": " << n_bad_ << " values outside their bounds";
  }

 private:
  std::string what_;
  int n_bad_ = 0;
};

/// The first device; a test cannot pass without one.
class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(describe_device(0, &info_), Status::kOk) << device_error_text();
  }
  DeviceInfo info_;
};

}  // namespace kt::kernels::cuda
