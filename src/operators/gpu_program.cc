#include "operators/gpu_program.h"

#include <bit>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

namespace kt::operators {
namespace {

using backend::Status;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kFlagBytes = 64;  // a line each, so that nobody's write disturbs another's

// One for each transfer, and one for the end.
std::size_t flags_bytes(std::size_t n) { return aligned((n + 1) * kFlagBytes); }

// The GPU asks for the same lines all the while, which the CPU would have to own.
void store_past_caches(std::uint64_t value, std::uint64_t* to) {
#ifdef __clang__
  __builtin_nontemporal_store(value, to);
#else
  __builtin_ia32_movnti64(reinterpret_cast<long long*>(to), static_cast<long long>(value));
#endif
}

}  // namespace

void GpuProgram::Size::add(std::size_t transfer) {
  bytes += aligned(transfer);
  ++n;
}

GpuProgram::GpuProgram(backend::Gpu& gpu, Size size)
    : gpu_(gpu), size_(size), memory_(gpu.pinned(flags_bytes(size.n) + size.bytes)) {
  std::memset(memory_.get(), 0, flags_bytes(size.n) + size.bytes);  // no run's tag
  void* address = nullptr;
  gpu_.check(gpu_.api().device_address(memory_.get(), &address), "device_address");
  memory_on_gpu_ = static_cast<std::byte*>(address);
}

// The GPU must not write to memory that is not there any more; what fails has been reported.
GpuProgram::~GpuProgram() {
  if (ran_ && gpu_.api().use_device(gpu_.index()) == Status::kOk)
    gpu_.api().stream_synchronize(gpu_.stream());
}

GpuProgram::Slot GpuProgram::slot(std::size_t i, std::size_t offset) const {
  auto* memory = static_cast<std::byte*>(memory_.get());
  const std::size_t data = flags_bytes(size_.n) + offset, flag = i * kFlagBytes;
  auto* line = reinterpret_cast<std::uint32_t*>(memory_on_gpu_ + flag);
  return {memory + data, memory_on_gpu_ + data, reinterpret_cast<std::uint32_t*>(memory + flag),
          line, line + 1};
}

GpuProgram::Slot GpuProgram::next(std::size_t bytes, bool tagged) noexcept {
  const bool fits = at_ < size_.n && used_ + aligned(bytes) <= size_.bytes;
  const bool expected =
      !is_recorded() || (at_ < transfers_.size() && transfers_[at_].bytes == bytes);
  if (!fits || !expected) return {};
  if (!is_recorded()) transfers_.push_back({bytes, tagged});  // reserved by record_begin()
  const Slot found = slot(at_, used_);
  ++at_;
  used_ += aligned(bytes);
  return found;
}

Status GpuProgram::record_begin() noexcept {
  try {
    transfers_.reserve(size_.n);
  } catch (...) {
    return Status::kNoMemory;
  }
  return gpu_.api().graph_begin(gpu_.stream());
}

Status GpuProgram::record_end() noexcept {
  const Slot end = slot(size_.n, 0);
  Status marked = gpu_.api().use_device(gpu_.index());
  if (marked == Status::kOk) marked = gpu_.api().write_flag(end.full_on_gpu, kFull, gpu_.stream());
  backend::GpuGraphHandle handle = nullptr;
  const Status status = gpu_.api().graph_end(gpu_.stream(), &handle);
  if (status != Status::kOk) return status;
  backend::GpuGraph graph(gpu_.api(), handle);
  if (marked == Status::kOk) graph_ = std::move(graph);
  return marked;
}

bool GpuProgram::rewind() noexcept {
  if (ran_ && !wait(slot(size_.n, 0))) return false;
  for (std::size_t i = 0; i <= size_.n; ++i) *slot(i, 0).full = 0;
  at_ = used_ = 0;
  ++tag_;
  return true;
}

Status GpuProgram::launch() noexcept {
  ran_ = true;
  return gpu_.api().graph_launch(graph_.get(), gpu_.stream());
}

void GpuProgram::Values::put(std::int64_t at, const float* from, std::int64_t n) const noexcept {
  for (std::int64_t i = 0; i < n; ++i)
    store_past_caches(tag | std::bit_cast<std::uint32_t>(from[i]), to + at + i);
}

void GpuProgram::tag_all(const Slot& slot, std::size_t bytes) noexcept {
  auto* words = reinterpret_cast<std::uint64_t*>(slot.data);
  for (std::size_t i = 0; i < bytes / sizeof *words; ++i)
    __atomic_store_n(words + i, std::uint64_t{tag_} << 32, __ATOMIC_RELAXED);
}

bool GpuProgram::wait(const Slot& slot) noexcept {
  constexpr int kSpins = 2000;  // some tens of microseconds
  constexpr auto kAsk = std::chrono::milliseconds(1);
  const auto full = [&] { return __atomic_load_n(slot.full, __ATOMIC_ACQUIRE) == kFull; };
  for (int i = 0; i < kSpins; ++i) {
    if (full()) return true;
    __builtin_ia32_pause();
  }
  for (auto asked = Clock::now(); !full(); std::this_thread::yield()) {
    if (Clock::now() - asked < kAsk) continue;
    asked = Clock::now();
    bool idle = false;
    if (gpu_.api().stream_idle(gpu_.stream(), &idle) != Status::kOk) return false;
    if (idle) return full();
  }
  return true;
}

bool GpuProgram::end() noexcept {
  if (at_ == transfers_.size()) return true;
  std::size_t offset = 0;
  for (std::size_t i = 0; i < transfers_.size(); ++i) {
    const Slot at = slot(i, offset);
    if (transfers_[i].tagged) tag_all(at, transfers_[i].bytes);
    fill(at);
    offset += aligned(transfers_[i].bytes);
  }
  return false;
}

}  // namespace kt::operators
