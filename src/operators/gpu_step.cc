#include "operators/gpu_step.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/half.h"
#include "operators/parallel.h"
#include "operators/placement.h"
#include "operators/step.h"

namespace kt::operators {
namespace {

using backend::CopyKind;
using kernels::cuda::Status;
using kernels::cuda::Type;
using kernels::cuda::type_bytes;

constexpr std::size_t kPieceBytes = std::size_t{64} << 20;
constexpr std::size_t kAlign = backend::Gpu::kAlignment;

constexpr const char* kOtherTransfers =
    "a step exchanges other rows with the host than the one of its shape that was recorded";

// 512, 768, 1024, 1536, … keys: a graph serves until the next.
std::int64_t round_keys(std::int64_t n) {
  std::int64_t size = 512;
  while (size < n)
    size = std::has_single_bit(static_cast<std::uint64_t>(size)) ? size / 2 * 3 : size / 3 * 4;
  return size;
}

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

void store_rows(ThreadPool& pool, tensor::ConstMatrixF rows, Type type, std::byte* to) {
  const std::size_t row_bytes = static_cast<std::size_t>(rows.n_cols) * type_bytes(type);
  for_rows(pool, rows.n_rows, rows.n_cols, [&](std::int64_t r) {
    store_row(rows.row(r), rows.n_cols, type, to + static_cast<std::size_t>(r) * row_bytes);
  });
}

void load_rows(ThreadPool& pool, const std::byte* from, Type type, tensor::MatrixF rows) {
  const std::size_t row_bytes = static_cast<std::size_t>(rows.n_cols) * type_bytes(type);
  for_rows(pool, rows.n_rows, rows.n_cols, [&](std::int64_t r) {
    load_row(from + static_cast<std::size_t>(r) * row_bytes, rows.n_cols, type, rows.row(r));
  });
}

std::size_t tagged_bytes(std::int64_t n) {
  return static_cast<std::size_t>(n) * sizeof(kernels::cuda::TaggedFloat);
}
bool takes_tags(std::int64_t n) {
  return n % 2 == 0 && tagged_bytes(n) <= kernels::cuda::kTaggedBytes;
}

std::size_t bytes_of(tensor::ConstMatrixF rows, Type type) {
  return static_cast<std::size_t>(rows.n_rows * rows.n_cols) * type_bytes(type);
}

void clear(tensor::MatrixF rows) {
  for (std::int64_t r = 0; r < rows.n_rows; ++r)
    std::fill(rows.row(r), rows.row(r) + rows.n_cols, 0.0f);
}

}  // namespace

GpuStep::GpuStep(backend::Gpu& gpu, ThreadPool& pool)
    : gpu_(gpu), pool_(pool), staging_(gpu.pinned(kStagingBytes)) {}

GpuStep::~GpuStep() = default;

void GpuStep::note(const char* who, Status status) noexcept {
  if (status == Status::kOk) return;
  error_ = gpu_.describe(status, who);
  error_code_ = status == Status::kNoMemory       ? ErrorCode::kNoMemory
                : status == Status::kDeviceFailed ? ErrorCode::kIo
                                                  : ErrorCode::kInternal;
}

bool GpuStep::recover() noexcept {
  if (error_.empty()) return true;
  std::string error = std::exchange(error_, {});
  wait();  // what was launched may still use the temporaries
  if (error_.empty()) {
    error_code_ = ErrorCode::kInternal;
    return true;
  }
  error_ = std::move(error);
  return false;
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
  try {
    return grow(bytes);
  } catch (const std::exception& e) {
    error_ =
        std::string(e.what()) + "; lower --chunk or --ctx, or let kt use more of it (--gpu-memory)";
    error_code_ = ErrorCode::kNoMemory;
    return nullptr;
  }
}

// The last piece grows where nothing lies behind it, so that requests that become larger take no
// more than the largest; else a new one begins.
void* GpuStep::grow(std::size_t bytes) {
  const auto piece_bytes = [&](std::size_t least) {
    const std::size_t left = gpu_.reserved() - std::min(gpu_.reserved(), gpu_.used() + kAlign);
    return std::max(least, std::min(kPieceBytes, left / kAlign * kAlign));
  };
  if (!pieces_.empty()) {
    Piece& last = pieces_.back();
    const std::size_t from = std::max(used_, last.begin), end = last.begin + last.size;
    const std::size_t mark = gpu_.mark(), more = piece_bytes(from + bytes - end);
    if (gpu_.allocate_bytes(more) == last.data + last.size) {
      last.size += more;
      used_ = from + bytes;
      return last.data + (from - last.begin);
    }
    gpu_.release(mark);
  }
  const std::size_t begin = pieces_.empty() ? 0 : pieces_.back().begin + pieces_.back().size;
  const std::size_t size = piece_bytes(bytes);
  pieces_.push_back({gpu_.allocate_bytes(size), begin, size});
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

StepShape shape_of(const Batch& batch) {
  StepShape shape;
  shape.n_rows = static_cast<std::int64_t>(batch.tokens.size());
  shape.n_sequences = static_cast<std::int64_t>(batch.sequences.size());
  shape.n_logits = static_cast<std::int64_t>(batch.logit_rows.size());
  shape.lists = !batch.list_scales.empty();
  for (const SequenceRows& s : batch.sequences) {
    shape.max_rows = std::max(shape.max_rows, s.n_rows);
    shape.max_keys = std::max(shape.max_keys, s.position + s.n_rows);
  }
  if (shape.n_rows < backend::kBatchRows) shape.max_keys = round_keys(shape.max_keys);
  return shape;
}

void GpuStep::begin(const Batch& batch, const StepShape& shape, GpuProgram* program) noexcept {
  recover();
  used_ = 0;
  transferred_ = {};
  program_ = program;
  mode_ = Mode::kLaunch;
  std::vector<std::byte> packed;
  try {
    packed = pack_batch(batch, shape);
  } catch (const std::exception& e) {
    if (error_.empty()) error_ = e.what();
  }
  if (program != nullptr) start_program(packed);
  if (mode_ != Mode::kReplay) send_batch(packed);
}

// Lists what kernels want to know of the batch, and takes memory for it.
std::vector<std::byte> GpuStep::pack_batch(const Batch& batch, const StepShape& shape) {
  const std::int64_t stride = (shape.max_keys + tensor::kKvPageLen - 1) / tensor::kKvPageLen;
  const auto rows = static_cast<std::size_t>(shape.n_rows);
  const auto sequences = static_cast<std::size_t>(shape.n_sequences);
  const std::size_t rows_at = kAlign;  // behind the tag of replayed steps
  const std::size_t logits_at = rows_at + aligned(rows * sizeof(std::int32_t));
  const std::size_t scales_at =
      logits_at + aligned(static_cast<std::size_t>(shape.n_logits) * sizeof(std::int32_t));
  const std::size_t items_at = scales_at + aligned(batch.list_scales.size_bytes());
  const std::size_t pages_at = items_at + aligned(sequences * sizeof(kernels::cuda::SequenceItem));
  std::vector<std::byte> packed(pages_at + sequences * static_cast<std::size_t>(stride) *
                                               sizeof(std::int32_t));
  const auto ints = [&](std::size_t at) {
    return reinterpret_cast<std::int32_t*>(packed.data() + at);
  };
  std::iota(ints(rows_at), ints(rows_at) + shape.n_rows, 0);
  std::copy(batch.logit_rows.begin(), batch.logit_rows.end(), ints(logits_at));
  std::copy(batch.list_scales.begin(), batch.list_scales.end(),
            reinterpret_cast<float*>(packed.data() + scales_at));
  auto* items = reinterpret_cast<kernels::cuda::SequenceItem*>(packed.data() + items_at);
  for (std::int32_t i = 0; const SequenceRows& s : batch.sequences) {
    const std::int64_t n_pages =
        (s.position + s.n_rows + tensor::kKvPageLen - 1) / tensor::kKvPageLen;
    std::copy(s.pages, s.pages + n_pages, ints(pages_at) + i * stride);
    items[i] = {static_cast<std::int32_t>(s.row_begin), static_cast<std::int32_t>(s.n_rows),
                static_cast<std::int32_t>(s.position), i};
    ++i;
  }
  batch_ = static_cast<std::byte*>(allocate(packed.size()));
  if (batch_ == nullptr) return packed;
  tag_ = reinterpret_cast<const std::uint32_t*>(batch_);
  row_numbers_ = reinterpret_cast<const std::int32_t*>(batch_ + rows_at);
  logit_rows_ = reinterpret_cast<const std::int32_t*>(batch_ + logits_at);
  list_scales_ = reinterpret_cast<const float*>(batch_ + scales_at);
  sequences_ = {reinterpret_cast<const kernels::cuda::SequenceItem*>(batch_ + items_at),
                shape.n_sequences,
                shape.max_rows,
                shape.max_keys,
                {reinterpret_cast<const std::int32_t*>(batch_ + pages_at), stride}};
  return packed;
}

// Starts recording, or launches what was recorded; the batch is its first transfer.
void GpuStep::start_program(const std::vector<std::byte>& batch) noexcept {
  run("choosing a GPU", [](auto&, auto) { return Status::kOk; });
  if (!error_.empty()) return;
  if (!program_->is_recorded()) {
    note("recording a step", program_->record_begin());
    if (error_.empty()) mode_ = Mode::kRecord;
    return;
  }
  mode_ = Mode::kReplay;
  if (!program_->rewind()) note("waiting for a GPU", Status::kDeviceFailed);
  const GpuProgram::Slot slot = next_slot(batch.size());
  if (slot.data == nullptr) return;
  std::memcpy(slot.data, batch.data(), batch.size());
  const std::uint32_t tag = program_->tag();
  std::memcpy(slot.data, &tag, sizeof tag);
  note("launching a step", program_->launch());
}

void GpuStep::send_batch(const std::vector<std::byte>& batch) noexcept {
  transferred_.add(batch.size());
  for (std::size_t done = 0; done < batch.size();) {
    const std::size_t n = std::min(batch.size() - done, kStagingBytes);
    std::byte* from = nullptr;
    if (mode_ == Mode::kRecord) {  // its size is that of the batches to come
      from = next_slot(batch.size()).data;
    } else {
      from = stage(n);
      std::memcpy(from, batch.data() + done, n);
    }
    run("sending a batch", [&](auto& k, auto stream) {
      return k.copy(batch_ + done, from, n, CopyKind::kToDevice, stream);
    });
    done += n;
  }
}

void GpuStep::end() noexcept {
  if (mode_ == Mode::kRecord) {
    const Status status = program_->record_end();
    if (error_.empty()) note("recording a step", status);
  } else if (mode_ == Mode::kReplay && !program_->end() && error_.empty()) {
    error_ = kOtherTransfers;
  }
  mode_ = Mode::kLaunch;
  program_ = nullptr;
}

GpuProgram::Slot GpuStep::next_slot(std::size_t bytes, bool tagged) noexcept {
  if (!error_.empty()) return {};
  const GpuProgram::Slot slot = program_->next(bytes, tagged);
  if (slot.data == nullptr) error_ = kOtherTransfers;
  return slot;
}

// f(part, pinned memory for it) for parts that the pinned memory holds: rows, or columns of one.
template <class F>
void GpuStep::for_parts(std::int64_t n_rows, std::int64_t n_cols, Type type, F&& f) noexcept {
  const std::size_t row_bytes = static_cast<std::size_t>(n_cols) * type_bytes(type);
  const auto most_rows = static_cast<std::int64_t>(kStagingBytes / std::max(row_bytes, kAlign));
  const auto most_cols = static_cast<std::int64_t>(kStagingBytes / type_bytes(type));
  const std::int64_t rows = std::max<std::int64_t>(most_rows, 1);
  const std::int64_t cols = most_rows > 0 ? n_cols : most_cols;
  for (std::int64_t row = 0; row < n_rows; row += rows) {
    for (std::int64_t col = 0; col < n_cols; col += cols) {
      Part part{row, std::min(rows, n_rows - row), col, std::min(cols, n_cols - col)};
      part.offset = static_cast<std::size_t>(row * n_cols + col) * type_bytes(type);
      part.bytes = static_cast<std::size_t>(part.n_rows * part.n_cols) * type_bytes(type);
      f(part, stage(part.bytes));
    }
  }
}

void GpuStep::upload(tensor::ConstMatrixF rows, void* to, Type type) noexcept {
  if (mode_ == Mode::kLaunch) {
    transferred_.add(bytes_of(rows, type));
    upload_now(rows, to, type);
    return;
  }
  const GpuProgram::Slot slot = next_slot(bytes_of(rows, type));
  if (slot.data != nullptr && mode_ == Mode::kReplay) {
    store_rows(pool_, rows, type, slot.data);
    program_->fill(slot);
  }
  run("waiting for the host", [&](auto& k, auto stream) {
    return k.wait_flag(slot.full_on_gpu, GpuProgram::kFull, stream);
  });
  run("sending rows to a GPU", [&](auto& k, auto stream) {
    return k.copy(to, slot.data_on_gpu, bytes_of(rows, type), CopyKind::kToDevice, stream);
  });
}

void GpuStep::upload_now(tensor::ConstMatrixF rows, void* to, Type type) noexcept {
  for_parts(rows.n_rows, rows.n_cols, type, [&](const Part& part, std::byte* from) {
    store_rows(pool_, part.of(rows), type, from);
    run("sending rows to a GPU", [&](auto& k, auto stream) {
      return k.copy(static_cast<std::byte*>(to) + part.offset, from, part.bytes,
                    CopyKind::kToDevice, stream);
    });
  });
}

void GpuStep::add(tensor::ConstMatrixF rows, void* sum, Type type) noexcept {
  if (const Sending sending = send(rows.n_rows, rows.n_cols); sending.gpu != nullptr) {
    for (std::int64_t r = 0; sending.values.to != nullptr && r < rows.n_rows; ++r)
      sending.values.put(r * rows.n_cols, rows.row(r), rows.n_cols);
    __builtin_ia32_sfence();
    return add(sending, sum, type);
  }
  const std::size_t mark = used_;
  void* from = allocate(bytes_of(rows, Type::kF32));
  if (const std::int64_t n = rows.n_rows * rows.n_cols; takes_tags(n)) {
    transferred_.add(tagged_bytes(n));
    upload_now(rows, from, Type::kF32);
  } else {
    upload(rows, from, Type::kF32);
  }
  run("a sum of rows", [&](auto& k, auto stream) {
    return k.add({sum, type, from, Type::kF32, rows.n_cols, rows.n_rows, rows.n_cols}, stream);
  });
  used_ = mark;
}

GpuStep::Sending GpuStep::send(std::int64_t n_rows, std::int64_t n_cols) noexcept {
  Sending rows;
  rows.n = n_rows * n_cols;
  if (mode_ == Mode::kLaunch || !takes_tags(rows.n)) return rows;
  rows.gpu = this;
  rows.slot = next_slot(tagged_bytes(rows.n), true);
  if (rows.slot.data != nullptr && mode_ == Mode::kReplay)
    rows.values = program_->values(rows.slot);
  return rows;
}

void GpuStep::add(const Sending& rows, void* sum, Type type) noexcept {
  kernels::cuda::AddTaggedArgs args;
  args.rows = reinterpret_cast<const kernels::cuda::TaggedFloat*>(rows.slot.data_on_gpu);
  args.tag = tag_;
  args.waited = rows.slot.waited_on_gpu;
  args.sum = sum;
  args.type = type;
  args.n = rows.n;
  run("a sum of rows from the host",
      [&](auto& k, auto stream) { return k.add_tagged(args, stream); });
}

void GpuStep::download(std::span<const Fetch> fetches) noexcept {
  std::size_t bytes = 0;
  for (const Fetch& f : fetches) bytes += aligned(f.bytes());
  if (mode_ == Mode::kLaunch) {
    transferred_.add(bytes);
    for (const Fetch& f : fetches) fetch_now(f);
  } else if (const GpuProgram::Slot slot = next_slot(bytes); slot.data == nullptr) {
  } else if (mode_ == Mode::kRecord) {
    publish(fetches, slot);
  } else if (!program_->wait(slot)) {
    note("waiting for a GPU", Status::kDeviceFailed);
  } else {
    const std::byte* from = slot.data;
    for (const Fetch& f : fetches) {
      load_rows(pool_, from, f.type, f.to);
      from += aligned(f.bytes());
    }
  }
  if (error_.empty() && mode_ != Mode::kRecord) return;
  for (const Fetch& f : fetches) clear(f.to);  // nobody shall see what was there
}

void GpuStep::fetch_now(const Fetch& fetch) noexcept {
  for_parts(fetch.to.n_rows, fetch.to.n_cols, fetch.type, [&](const Part& part, std::byte* at) {
    run("fetching rows from a GPU", [&](auto& k, auto stream) {
      return k.copy(at, static_cast<const std::byte*>(fetch.rows) + part.offset, part.bytes,
                    CopyKind::kToHost, stream);
    });
    wait();
    if (error_.empty()) load_rows(pool_, at, fetch.type, part.of(fetch.to));
  });
}

// A step that is recorded writes them where the host reads them.
void GpuStep::list(kernels::cuda::ListArgs args, std::span<kernels::cuda::RowList> to) noexcept {
  const std::size_t bytes = to.size_bytes();
  const std::byte* from = nullptr;
  const auto launch = [&] {
    run("lists of logits", [&](auto& k, auto stream) { return k.list_rows(args, stream); });
  };
  if (mode_ == Mode::kLaunch) {
    transferred_.add(bytes);
    args.lists = static_cast<kernels::cuda::RowList*>(allocate(bytes));
    launch();
    std::byte* at = stage(bytes);
    run("fetching lists of logits", [&](auto& k, auto stream) {
      return k.copy(at, args.lists, bytes, CopyKind::kToHost, stream);
    });
    wait();
    from = at;
  } else if (const GpuProgram::Slot slot = next_slot(bytes); slot.data == nullptr) {
  } else if (mode_ == Mode::kRecord) {
    args.lists = reinterpret_cast<kernels::cuda::RowList*>(slot.data_on_gpu);
    args.flag = slot.full_on_gpu;
    args.value = GpuProgram::kFull;
    launch();
  } else if (!program_->wait(slot)) {
    note("waiting for a GPU", Status::kDeviceFailed);
  } else {
    from = slot.data;
  }
  if (error_.empty() && from != nullptr) {
    std::memcpy(to.data(), from, bytes);
  } else {
    std::fill(to.begin(), to.end(), kernels::cuda::RowList{});
  }
}

// Few bytes by one kernel, else by copies; then the flag.
void GpuStep::publish(std::span<const Fetch> fetches, const GpuProgram::Slot& slot) noexcept {
  kernels::cuda::PublishArgs args;
  args.flag = slot.full_on_gpu;
  args.value = GpuProgram::kFull;
  std::size_t at = 0, bytes = 0;
  for (const Fetch& f : fetches) {
    args.parts[args.n_parts++] = {f.rows, slot.data_on_gpu + at, f.bytes()};
    at += aligned(f.bytes());
    bytes += f.bytes();
  }
  run("fetching rows from a GPU", [&](auto& k, auto stream) {
    if (bytes <= kernels::cuda::kPublishBytes) return k.publish(args, stream);
    Status status = Status::kOk;
    for (int i = 0; i < args.n_parts && status == Status::kOk; ++i) {
      const auto& part = args.parts[i];
      status = k.copy(part.to, part.from, part.bytes, CopyKind::kToHost, stream);
    }
    return status == Status::kOk ? k.write_flag(args.flag, args.value, stream) : status;
  });
}

void check_errors(GpuSteps gpus) {
  for (const auto& gpu : gpus) {
    if (gpu->error().empty()) continue;
    fail(gpu->error_code(), gpu_name(gpu->index()), "{}", gpu->error());
  }
}

}  // namespace kt::operators
