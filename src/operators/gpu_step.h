// A GPU during one step: memory for temporaries, the batch as kernels read it, transfers, and the
// first error, after which nothing more is launched.
//
//   begin(batch) → launches of the operators on this GPU → error(), asked when the step has ended
//
// Temporaries grow like tensor::Arena, in pieces of the GPU's reserved memory. Transfers between
// floats in host memory and rows on the GPU go through pinned memory; download() waits. Thread
// rule: used by the thread that walks the tree.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/gpu/gpu.h"
#include "tensor/kv_view.h"
#include "tensor/tensor.h"

namespace kt::operators {

struct Batch;
class Module;

class GpuStep {
 public:
  explicit GpuStep(backend::Gpu& gpu);
  ~GpuStep();
  GpuStep(const GpuStep&) = delete;
  GpuStep& operator=(const GpuStep&) = delete;

  backend::Gpu& gpu() const { return gpu_; }
  int index() const { return gpu_.index(); }

  /// Forgets the temporaries and sends the batch.
  void begin(const Batch& batch) noexcept;
  /// The sequences of the batch, as kernels::cuda::AttentionArgs wants them.
  struct Sequences {
    const kernels::cuda::SequenceItem* items = nullptr;
    std::int64_t n_items = 0, max_rows = 0, max_keys = 0;
    kernels::cuda::PageTable table;
  };
  const Sequences& sequences() const { return sequences_; }
  const std::int32_t* row_numbers() const { return row_numbers_; }  // 0, 1, … of the batch's rows
  const std::int32_t* logit_rows() const { return logit_rows_; }

  /// 256-byte aligned, valid until release(mark) or the next step; null after an error.
  void* allocate(std::size_t bytes) noexcept;
  std::size_t mark() const { return used_; }
  void release(std::size_t mark) { used_ = mark; }

  /// launch() on this GPU unless there was an error; what it returns is noted as `who`'s.
  template <class F>
  void run(const char* who, F&& launch) noexcept {
    if (error_.empty()) note(who, gpu_.api().use_device(gpu_.index()));
    if (error_.empty()) note(who, launch(gpu_.api(), gpu_.stream()));
  }
  /// What went wrong in this step or before; empty: nothing.
  const std::string& error() const { return error_; }

  /// Rows of floats → contiguous rows on the GPU, and back.
  void upload(tensor::ConstMatrixF rows, void* to, kernels::cuda::Type type) noexcept;
  void download(const void* rows, kernels::cuda::Type type, tensor::MatrixF to) noexcept;

 private:
  void note(const char* who, kernels::cuda::Status status) noexcept;
  void wait() noexcept;
  std::byte* stage(std::size_t bytes) noexcept;
  template <class F>
  void for_parts(std::int64_t n_rows, std::int64_t n_cols, kernels::cuda::Type type,
                 F&& f) noexcept;
  template <class T>
  const T* send(const std::vector<T>& values) noexcept;

  backend::Gpu& gpu_;
  struct Piece {
    std::byte* data;
    std::size_t begin, size;  // offsets in the address space of marks
  };
  std::vector<Piece> pieces_;
  std::size_t used_ = 0;
  backend::PinnedMemory staging_;
  std::size_t staged_ = 0;  // bytes of it in use
  Sequences sequences_;
  const std::int32_t* row_numbers_ = nullptr;
  const std::int32_t* logit_rows_ = nullptr;
  std::string error_;
};

}  // namespace kt::operators
