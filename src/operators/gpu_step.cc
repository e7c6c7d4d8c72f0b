#include "operators/gpu_step.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/half.h"
#include "operators/step.h"

namespace kt::operators {
namespace {

using backend::CopyKind;
using kernels::cuda::Status;
using kernels::cuda::Type;

constexpr std::size_t kPieceBytes = std::size_t{64} << 20;
constexpr std::size_t kStagingBytes = std::size_t{16} << 20;
constexpr std::size_t kAlign = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

void store_row(const float* from, std::int64_t n, Type type, std::byte* to) {
  if (type == Type::kF32) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  auto* out = reinterpret_cast<std::uint16_t*>(to);
  for (std::int64_t i = 0; i < n; ++i) out[i] = f32_to_bf16(from[i]);
}

void load_row(const std::byte* from, std::int64_t n, Type type, float* to) {
  if (type == Type::kF32) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  const auto* in = reinterpret_cast<const std::uint16_t*>(from);
  for (std::int64_t i = 0; i < n; ++i) to[i] = bf16_to_f32(in[i]);
}

}  // namespace

GpuStep::GpuStep(backend::Gpu& gpu) : gpu_(gpu), staging_(gpu.pinned(kStagingBytes)) {}

GpuStep::~GpuStep() = default;

void GpuStep::note(const char* who, Status status) noexcept {
  if (status == Status::kOk) return;
  error_ = gpu_.describe(status, who);
}

void* GpuStep::allocate(std::size_t bytes) noexcept {
  if (!error_.empty()) return nullptr;
  bytes = std::max(aligned(bytes), kAlign);
  for (const Piece& piece : pieces_) {
    const std::size_t from = std::max(used_, piece.begin);
    if (from + bytes > piece.begin + piece.size) continue;
    used_ = from + bytes;
    return piece.data + (from - piece.begin);
  }
  const std::size_t left = gpu_.reserved() - std::min(gpu_.reserved(), gpu_.used() + kAlign);
  const std::size_t size = std::max(bytes, std::min(kPieceBytes, left));
  const std::size_t begin = pieces_.empty() ? 0 : pieces_.back().begin + pieces_.back().size;
  try {
    pieces_.push_back({gpu_.allocate_bytes(size), begin, size});
  } catch (const std::exception& e) {
    error_ = e.what();
    return nullptr;
  }
  used_ = begin + bytes;
  return pieces_.back().data;
}

// All transfers are over then.
void GpuStep::wait() noexcept {
  run("waiting for a GPU", [](auto& k, auto stream) { return k.stream_synchronize(stream); });
  staged_ = 0;
}

// Pinned memory that no transfer uses any more.
std::byte* GpuStep::stage(std::size_t bytes) noexcept {
  bytes = aligned(bytes);
  if (staged_ + bytes > kStagingBytes) wait();
  std::byte* at = static_cast<std::byte*>(staging_.get()) + staged_;
  staged_ += bytes;
  return at;
}

template <class T>
const T* GpuStep::send(const std::vector<T>& values) noexcept {
  const std::size_t bytes = values.size() * sizeof(T);
  void* to = allocate(bytes);
  if (bytes == 0 || to == nullptr) return static_cast<const T*>(to);
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t n = std::min(bytes - done, kStagingBytes);
    std::byte* from = stage(n);
    std::memcpy(from, reinterpret_cast<const std::byte*>(values.data()) + done, n);
    run("sending a batch", [&](auto& k, auto stream) {
      return k.copy(static_cast<std::byte*>(to) + done, from, n, CopyKind::kToDevice, stream);
    });
    done += n;
  }
  return static_cast<const T*>(to);
}

void GpuStep::begin(const Batch& batch) noexcept {
  used_ = 0;
  const auto n_rows = static_cast<std::int64_t>(batch.tokens.size());
  std::vector<std::int32_t> numbers(static_cast<std::size_t>(n_rows));
  std::iota(numbers.begin(), numbers.end(), 0);
  row_numbers_ = send(numbers);
  logit_rows_ = send(std::vector<std::int32_t>(batch.logit_rows.begin(), batch.logit_rows.end()));
  const auto pages_of = [](const SequenceRows& s) {
    return (s.position + s.n_rows + tensor::kKvPageLen - 1) / tensor::kKvPageLen;
  };
  sequences_ = {};
  std::int64_t stride = 0;
  for (const SequenceRows& s : batch.sequences) stride = std::max(stride, pages_of(s));
  std::vector<kernels::cuda::SequenceItem> items;
  std::vector<std::int32_t> pages(batch.sequences.size() * static_cast<std::size_t>(stride));
  for (const SequenceRows& s : batch.sequences) {
    const auto table = static_cast<std::int32_t>(items.size());
    std::copy(s.pages, s.pages + pages_of(s), pages.begin() + table * stride);
    items.push_back({static_cast<std::int32_t>(s.row_begin), static_cast<std::int32_t>(s.n_rows),
                     static_cast<std::int32_t>(s.position), table});
    sequences_.max_rows = std::max(sequences_.max_rows, s.n_rows);
    sequences_.max_keys = std::max(sequences_.max_keys, s.position + s.n_rows);
  }
  sequences_.n_items = static_cast<std::int64_t>(items.size());
  sequences_.items = send(items);
  sequences_.table = {send(pages), stride};
}

// f(first row, rows, bytes of a row, pinned memory for them) for parts that the pinned memory
// holds.
template <class F>
void GpuStep::for_parts(std::int64_t n_rows, std::int64_t n_cols, Type type, F&& f) noexcept {
  const std::size_t row_bytes = static_cast<std::size_t>(n_cols) * kernels::cuda::type_bytes(type);
  const auto at_once = static_cast<std::int64_t>(kStagingBytes / aligned(row_bytes));
  for (std::int64_t begin = 0; begin < n_rows; begin += at_once) {
    const std::int64_t n = std::min(at_once, n_rows - begin);
    f(begin, n, row_bytes, stage(row_bytes * static_cast<std::size_t>(n)));
  }
}

void GpuStep::upload(tensor::ConstMatrixF rows, void* to, Type type) noexcept {
  for_parts(rows.n_rows, rows.n_cols, type,
            [&](std::int64_t begin, std::int64_t n, std::size_t row_bytes, std::byte* from) {
              for (std::int64_t r = 0; r < n; ++r)
                store_row(rows.row(begin + r), rows.n_cols, type,
                          from + static_cast<std::size_t>(r) * row_bytes);
              auto* part =
                  static_cast<std::byte*>(to) + static_cast<std::size_t>(begin) * row_bytes;
              run("sending rows to a GPU", [&](auto& k, auto stream) {
                return k.copy(part, from, row_bytes * static_cast<std::size_t>(n),
                              CopyKind::kToDevice, stream);
              });
            });
}

void GpuStep::download(const void* rows, Type type, tensor::MatrixF to) noexcept {
  for_parts(to.n_rows, to.n_cols, type,
            [&](std::int64_t begin, std::int64_t n, std::size_t row_bytes, std::byte* at) {
              const auto* part =
                  static_cast<const std::byte*>(rows) + static_cast<std::size_t>(begin) * row_bytes;
              run("fetching rows from a GPU", [&](auto& k, auto stream) {
                return k.copy(at, part, row_bytes * static_cast<std::size_t>(n), CopyKind::kToHost,
                              stream);
              });
              wait();
              for (std::int64_t r = 0; r < n; ++r) {
                float* row = to.row(begin + r);
                if (error_.empty()) {
                  load_row(at + static_cast<std::size_t>(r) * row_bytes, to.n_cols, type, row);
                } else {  // nobody shall see what was there
                  std::fill(row, row + to.n_cols, 0.0f);
                }
              }
            });
}

}  // namespace kt::operators
