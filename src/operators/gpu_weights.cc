#include "operators/gpu_weights.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>

#include "base/half.h"

namespace kt::operators {
namespace {

using kernels::cuda::Status;

constexpr std::int64_t kTileRows = kernels::cuda::kTileRows;
constexpr std::size_t kPieceBytes = backend::Gpu::kStagingBytes;

// The last exception of parallel work.
class Failure {
 public:
  template <class F>
  void guard(F&& f) noexcept {
    try {
      f();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      exception_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr exception_;
};

// Sends matrices of one format piece by piece: rows are brought into pinned memory by all threads
// while the piece before is copied, and packed on the GPU. A piece holds rows of several matrices
// when they are small.
class Sender {
 public:
  Sender(Loader& loader, backend::Gpu& gpu, const Recode& recode)
      : loader_(loader),
        gpu_(gpu),
        recode_(recode),
        readers_(static_cast<std::size_t>(loader.cpu().pool.size()),
                 RowReader(loader.source(), recode)),
        mark_(gpu.mark()),
        raw_(gpu.allocate_bytes(kPieceBytes)) {}
  ~Sender() { gpu_.release(mark_); }  // what comes there is written behind, in the stream's order
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;

  void send(const io::TensorInfo& info, std::byte* to) {
    const tensor::Format format = recode_.target(info.format);
    const std::int64_t n = info.shape.n_rows(), k = info.shape.n_cols();
    const std::size_t row_bytes = formats::row_bytes(format, k);
    if (row_bytes * static_cast<std::size_t>(kTileRows) > kPieceBytes) {
      fail(ErrorCode::kUnsupported, loader_.source().path(),
           "tensor '{}' has rows of {} bytes, more than can be sent to a GPU", info.stored_name,
           row_bytes);
    }
    for (std::int64_t row = 0; row < n;) {
      bytes_ = std::min(aligned(bytes_), kPieceBytes);
      const auto fit = static_cast<std::int64_t>((kPieceBytes - bytes_) / row_bytes);
      const std::int64_t count = n - row <= fit ? n - row : fit / kTileRows * kTileRows;
      if (count > 0) {
        const std::size_t at = row == 0 ? 0 : gpu_.api().packed_bytes(format, row, k);
        parts_.push_back({&info, row, count, bytes_, row_bytes, to + at});
        bytes_ += row_bytes * static_cast<std::size_t>(count);
        row += count;
      }
      if (row < n) flush();
    }
  }

  // Sends what is left.
  void flush() {
    if (parts_.empty()) return;
    collect(gpu_.stage());
    gpu_.send_staged(raw_, bytes_);
    for (const Part& p : parts_) {
      const tensor::Format format = recode_.target(p.info->format);
      const Status status = gpu_.api().pack(format, raw_ + p.at, p.n_rows, p.info->shape.n_cols(),
                                            p.to, gpu_.stream());
      if (status != Status::kOk) {
        fail(ErrorCode::kInternal, loader_.source().path(), "tensor '{}': {}", p.info->stored_name,
             gpu_.describe(status, "packing"));
      }
      if (p.row + p.n_rows == p.info->shape.n_rows()) loader_.finished(*p.info);
    }
    parts_.clear();
    bytes_ = 0;
  }

 private:
  // Rows [row, row + n_rows) of a tensor: where they are in a piece, and where they go.
  struct Part {
    const io::TensorInfo* info;
    std::int64_t row, n_rows;
    std::size_t at, row_bytes;
    std::byte* to;
  };

  // The parts' rows, recoded.
  void collect(std::byte* staging) {
    constexpr std::size_t kTaskBytes = std::size_t{128} << 10;
    struct Task {
      const Part* part;
      std::int64_t begin, count;
    };
    std::vector<Task> tasks;
    for (const Part& p : parts_) {
      const auto step =
          static_cast<std::int64_t>(std::max<std::size_t>(kTaskBytes / p.row_bytes, 1));
      for (std::int64_t begin = 0; begin < p.n_rows; begin += step)
        tasks.push_back({&p, begin, std::min(step, p.n_rows - begin)});
    }
    Failure failure;
    const auto n_tasks = static_cast<std::int64_t>(tasks.size());
    loader_.cpu().pool.run(n_tasks, [&](std::int64_t i, int worker) {
      const auto& [part, begin, count] = tasks[static_cast<std::size_t>(i)];
      failure.guard([&] {
        RowReader& reader = readers_[static_cast<std::size_t>(worker)];
        std::memcpy(staging + part->at + static_cast<std::size_t>(begin) * part->row_bytes,
                    reader.rows(*part->info, part->row + begin, count),
                    part->row_bytes * static_cast<std::size_t>(count));
      });
    });
    failure.rethrow();
  }

  Loader& loader_;
  backend::Gpu& gpu_;
  Recode recode_;
  std::vector<RowReader> readers_;  // of each worker
  std::size_t mark_;
  std::byte* raw_;           // rows as they are sent
  std::vector<Part> parts_;  // of the piece that is put together
  std::size_t bytes_ = 0;
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
  sender->flush();
  return out;
}

const void* gpu_head_rows(Loader& loader, backend::Gpu& gpu, const io::TensorInfo& info,
                          const HeadRows& rows) {
  const std::int64_t k = info.shape.n_cols(), n = rows.n;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(rows.n_heads * n * k));
  std::vector<RowReader> readers(static_cast<std::size_t>(loader.cpu().pool.size()),
                                 RowReader(loader.source(), {}));
  Failure failure;
  loader.cpu().pool.run(rows.n_heads, [&](std::int64_t head, int worker) {
    failure.guard([&] {
      const std::byte* stored = readers[static_cast<std::size_t>(worker)].rows(
          info, head * rows.rows_each + rows.begin, n);
      std::vector<float> decoded(static_cast<std::size_t>(n * k));
      formats::traits(info.format).decode(stored, decoded.data(), n * k);
      std::uint16_t* to = values.data() + head * n * k;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < k; ++j) {
          to[rows.transposed ? j * n + i : i * k + j] =
              f32_to_bf16(decoded[static_cast<std::size_t>(i * k + j)]);
        }
      }
    });
  });
  failure.rethrow();
  gpu.use();
  auto* to = gpu.allocate<std::uint16_t>(rows.n_heads * n * k);
  gpu.upload(to, values.data(), values.size() * sizeof(std::uint16_t));
  return to;
}

}  // namespace kt::operators
