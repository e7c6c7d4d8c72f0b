// Timing of launches: every case is recorded into a CUDA graph that runs through copies of its data
// larger than four times the L2 cache, so that weights come from memory, and is replayed until the
// median settles. Thread rule: one thread.
#pragma once
#include <cuda_runtime.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/cuda/status.h"

namespace kt::kernels::cuda::bench {

/// Device memory with random bits.
class Buffer {
 public:
  /// bf16: values near 1, else any bits. A failed allocation ends the program with a message.
  explicit Buffer(std::int64_t bytes, bool bf16 = false);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }
  std::byte* get() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  template <class T>
  void upload(const std::vector<T>& host) const {
    cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  }

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

struct Ceilings {
  double read_gbs = 0.0, copy_gbs = 0.0, bf16_tflops = 0.0;
};

class Harness {
 public:
  explicit Harness(const DeviceInfo& info) : info_(info) {}

  const DeviceInfo& info() const { return info_; }
  /// Copies of `bytes` that together exceed four times L2.
  int copies(std::int64_t bytes) const;
  /// Median seconds of one launch; launch(i, stream) enqueues the i-th of n.
  double seconds(int n, const std::function<Status(int, cudaStream_t)>& launch);

  /// Measures and prints the ceilings.
  void measure_ceilings();

  /// One line of the table and of the JSON: bytes and operations of one launch.
  void report(const std::string& family, const std::string& what, double seconds, double bytes,
              double flops);
  const nlohmann::json& results() const { return results_; }

 private:
  DeviceInfo info_;
  Ceilings ceilings_;
  nlohmann::json results_ = nlohmann::json::object();
};

}  // namespace kt::kernels::cuda::bench
