#include "operators/gpu_weights.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>

namespace kt::operators {
namespace {

using kernels::cuda::Status;

constexpr std::int64_t kTileRows = kernels::cuda::kTileRows;
constexpr std::size_t kPieceBytes = std::size_t{32} << 20;

// Sends matrices piece by piece: rows are brought into pinned memory by all threads, copied, and
// packed on the GPU.
class Sender {
 public:
  Sender(Loader& loader, backend::Gpu& gpu, const Recode& recode)
      : loader_(loader),
        gpu_(gpu),
        recode_(recode),
        readers_(static_cast<std::size_t>(loader.cpu().pool.size()),
                 RowReader(loader.source(), recode)),
        mark_(gpu.mark()) {}
  ~Sender() { gpu_.release(mark_); }
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;

  void send(const io::TensorInfo& info, std::byte* to) {
    const tensor::Format format = recode_.target(info.format);
    const std::int64_t n = info.shape.n_rows(), k = info.shape.n_cols();
    const std::size_t row_bytes = formats::row_bytes(format, k);
    const auto fit = static_cast<std::int64_t>(kPieceBytes / row_bytes) / kTileRows * kTileRows;
    const std::int64_t step = std::min(std::max(fit, kTileRows), n);
    reserve(row_bytes * static_cast<std::size_t>(step));
    for (std::int64_t row = 0; row < n; row += step) {
      const std::int64_t count = std::min(step, n - row);
      collect(info, row, count);
      const std::size_t bytes = row_bytes * static_cast<std::size_t>(count);
      const std::size_t at = row == 0 ? 0 : gpu_.api().packed_bytes(format, row, k);
      auto& kernels = gpu_.api();
      check(kernels.copy(raw_, staging_.get(), bytes, backend::CopyKind::kToDevice, gpu_.stream()),
            info);
      check(kernels.pack(format, raw_, count, k, to + at, gpu_.stream()), info);
      check(kernels.stream_synchronize(gpu_.stream()), info);
    }
    loader_.finished(info);
  }

 private:
  void reserve(std::size_t bytes) {
    if (reserved_ >= bytes) return;
    staging_ = gpu_.pinned(bytes);
    raw_ = gpu_.allocate_bytes(bytes);
    reserved_ = bytes;
  }

  void check(Status status, const io::TensorInfo& info) const {
    if (status == Status::kOk) return;
    fail(ErrorCode::kInternal, loader_.source().path(), "tensor '{}': {}", info.stored_name,
         gpu_.describe(status, "packing"));
  }

  // Rows [row, row + n) → pinned memory, recoded.
  void collect(const io::TensorInfo& info, std::int64_t row, std::int64_t n) {
    constexpr std::int64_t kRowsEach = 64;
    const std::size_t row_bytes =
        formats::row_bytes(recode_.target(info.format), info.shape.n_cols());
    std::exception_ptr failure;
    std::mutex mutex;
    loader_.cpu().pool.run((n + kRowsEach - 1) / kRowsEach, [&](std::int64_t task, int worker) {
      const std::int64_t begin = task * kRowsEach, count = std::min(kRowsEach, n - begin);
      std::byte* to =
          static_cast<std::byte*>(staging_.get()) + static_cast<std::size_t>(begin) * row_bytes;
      try {
        RowReader& reader = readers_[static_cast<std::size_t>(worker)];
        std::memcpy(to, reader.rows(info, row + begin, count),
                    row_bytes * static_cast<std::size_t>(count));
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    });
    if (failure) std::rethrow_exception(failure);
  }

  Loader& loader_;
  backend::Gpu& gpu_;
  Recode recode_;
  std::vector<RowReader> readers_;  // of each worker
  std::size_t mark_;
  backend::PinnedMemory staging_;
  std::byte* raw_ = nullptr;  // rows as they are sent
  std::size_t reserved_ = 0;
};

}  // namespace

bool gpu_multiplies(tensor::Format format) {
  using tensor::Format;
#define TILE(name) \
  if (format == Format::name) return true;
#include "kernels/cuda/gemm/kernels.inc"
#undef TILE
  return false;
}

bool gpu_has_experts(tensor::Format format) {
  using tensor::Format;
#define EXPERTS(name) \
  if (format == Format::name) return true;
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS
  return false;
}

const float* gpu_floats(backend::Gpu& gpu, const std::vector<float>& values) {
  gpu.use();
  auto* to = gpu.allocate<float>(static_cast<std::int64_t>(values.size()));
  gpu.upload(to, values.data(), values.size() * sizeof(float));
  return to;
}

GpuMatrices gpu_matrices(Loader& loader, backend::Gpu& gpu, const std::vector<WeightSpec>& specs,
                         const Recode& recode) {
  gpu.use();
  GpuMatrices out;
  std::byte* memory = nullptr;
  std::size_t done = 0;
  std::optional<Sender> sender;
  for (const WeightSpec& spec : specs) {
    const io::TensorInfo& info = loader.require(spec);
    check_recode(loader.source(), info, recode);
    const tensor::Format format = recode.target(info.format);
    if (done == 0) {
      const std::int64_t n = info.shape.n_rows(), k = info.shape.n_cols();
      out.each = gpu.api().packed_bytes(format, n, k);
      out.bytes = out.each * specs.size();
      memory = gpu.allocate_bytes(out.bytes);
      out.first = {format, memory, n, k};
      sender.emplace(loader, gpu, recode);  // its memory lies behind and is given back
    }
    if (format != out.first.format) {
      fail(ErrorCode::kUnsupported, loader.source().path(),
           "tensor '{}' is stored in another format than '{}'; all experts of a layer must share "
           "one",
           info.stored_name, specs.front().name);
    }
    sender->send(info, memory + done++ * out.each);
  }
  return out;
}

}  // namespace kt::operators
