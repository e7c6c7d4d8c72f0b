// Rows of activations on their way between modules: [n_rows, n_cols] values, as floats in host
// memory, on a GPU, or both, and the rounded forms in which CPU kernels read them. What a reader
// wants and is not there is made on first need, so that modules need not know where their
// neighbours run.
//
//   CPU: write(), update() → floats     f32(), rows_in() the form of a kernel
//   GPU: write_on(), update_on()        read_on()                     contiguous rows, one type
//
// Thread rule: owned by the thread that walks the tree; the rows may be used by all.
#pragma once
#include <array>
#include <optional>

#include "operators/step.h"

namespace kt::operators {

using GpuType = kernels::cuda::Type;
using tensor::ConstMatrixF;
using tensor::MatrixF;

class Activation {
 public:
  /// Rows in the step's temporary memory, to be written before they are read. `on_gpu`: their type
  /// there.
  Activation(Step& step, std::int64_t n_rows, std::int64_t n_cols, GpuType on_gpu = GpuType::kF32);
  /// Rows of the caller, which are only read.
  Activation(Step& step, ConstMatrixF x, GpuType on_gpu = GpuType::kF32);
  /// Rows of the caller, which may be written; what GPUs wrote is there after f32().
  static Activation on(Step& step, MatrixF x, GpuType on_gpu = GpuType::kF32);

  std::int64_t n_rows() const { return host_.n_rows; }
  std::int64_t n_cols() const { return host_.n_cols; }
  GpuType gpu_type() const { return gpu_type_; }
  const ConstMatrixF& f32() {
    if (!on_host_) fetch();
    return host_;
  }
  /// The copy that f32() would wait for, if it is one from this GPU; it is the caller's to do then.
  std::optional<GpuStep::Fetch> take_fetch(const GpuStep& gpu) {
    if (on_host_ || gpu_ != &gpu) return std::nullopt;
    on_host_ = true;
    return fetch_args();
  }
  /// To overwrite all rows.
  MatrixF write() {
    KT_CHECK(writable_ != nullptr);
    on_host_ = true;
    gpu_ = nullptr;
    rounded_ = backend::Activation(host_);
    return {writable_, host_.n_rows, host_.n_cols, host_.stride};
  }
  /// To change rows in place.
  MatrixF update() {
    f32();
    return write();
  }
  /// Rows in the form `matrix` reads for as many; rounds into the step's arena on first need.
  kernels::dot::ActRows rows_for(const backend::PackedMatrix& matrix, Step& step) {
    f32();
    return rounded_.rows_for(matrix, step.cpu, step.arena);
  }
  kernels::dot::ActRows rows_in(kernels::dot::Act form, Step& step) {
    f32();
    return rounded_.rows_in(form, step.cpu, step.arena);
  }

  /// On a GPU of the step: rows of gpu_type(), n_cols() apart. The pointers are null after an error
  /// of the GPU, when nothing is launched any more.
  const void* read_on(GpuStep& gpu) {
    if (gpu_ != &gpu) send(gpu);
    return at(gpu);
  }
  void* write_on(GpuStep& gpu) {
    KT_CHECK(writable_ != nullptr);
    on_host_ = false;
    gpu_ = &gpu;
    rounded_ = backend::Activation(host_);
    return at(gpu);
  }
  void* update_on(GpuStep& gpu) {
    read_on(gpu);
    return write_on(gpu);
  }
  /// The GPU that has them; null: only the host.
  GpuStep* gpu() const { return gpu_; }

 private:
  void* at(const GpuStep& gpu) const { return on_gpus_[static_cast<std::size_t>(gpu.index())]; }
  GpuStep::Fetch fetch_args() const {
    return {at(*gpu_), gpu_type_, {writable_, host_.n_rows, host_.n_cols, host_.stride}};
  }
  void fetch();
  void send(GpuStep& gpu);

  ConstMatrixF host_;
  float* writable_ = nullptr;
  backend::Activation rounded_;
  bool on_host_ = true;
  GpuStep* gpu_ = nullptr;
  GpuType gpu_type_ = GpuType::kF32;
  std::array<void*, kMaxGpus> on_gpus_{};
};

}  // namespace kt::operators
