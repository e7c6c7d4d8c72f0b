#include "backend/gpu/gpu.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace kt::backend {
namespace {

ErrorCode error_code(Status status) {
  switch (status) {
    case Status::kUnsupported:
    case Status::kNoLibrary: return ErrorCode::kUnsupported;
    case Status::kNoMemory: return ErrorCode::kNoMemory;
    case Status::kDeviceFailed: return ErrorCode::kIo;
    case Status::kOk:
    case Status::kBadArgument:
    case Status::kNoWorkspace: break;
  }
  return ErrorCode::kInternal;
}

}  // namespace

Gpu::Gpu(std::shared_ptr<const GpuLibrary> library, int device, std::size_t bytes)
    : library_(std::move(library)), device_(device) {
  const GpuList list = library_->gpus();
  const auto n = static_cast<int>(list.gpus.size());
  if (device < 0 || device >= n) {
    fail(ErrorCode::kNotFound, fmt::format("GPU {}", device), "there is no such GPU: {}",
         n == 0 ? list.problem : fmt::format("the driver shows {}, counted from 0", n));
  }
  description_ = list.gpus[static_cast<std::size_t>(device)];
  use();
  Stream stream = nullptr;
  check(api().stream_create(&stream), "stream_create");
  stream_ = GpuStream(api(), stream);
  kernels::cuda::BlasLt* blas = nullptr;
  const Status opened = api().blas_open(&blas);
  if (opened != Status::kNoLibrary) check(opened, "blas_open");
  blas_ = GpuBlas(api(), blas);
  pinned_ = pinned(2 * kStagingBytes);
  for (std::size_t i = 0; i < 2; ++i) {
    staging_[i] = {static_cast<std::byte*>(pinned_.get()) + i * kStagingBytes, event(false)};
  }
  reserve(bytes);
}

Gpu::~Gpu() {
  // Nothing may be freed under work that still runs; what fails here has been reported before.
  if (api().use_device(device_) == Status::kOk) api().stream_synchronize(stream());
}

void Gpu::use() const { check(api().use_device(device_), "use_device"); }

void Gpu::check(Status status, const char* what) const {
  if (status == Status::kOk) return;
  fail(error_code(status), fmt::format("GPU {} ({})", device_, description_.name), "{}",
       describe(status, what));
}

std::string Gpu::describe(Status status, const char* what) const {
  const bool has_text = status == Status::kDeviceFailed || status == Status::kNoMemory;
  return fmt::format("{}: {}{}{}", what, api().status_text(status), has_text ? ": " : "",
                     has_text ? api().error_text() : "");
}

void Gpu::reserve(std::size_t bytes) {
  if (bytes == 0) return;
  std::size_t free = 0, total = 0;
  check(api().device_memory(&free, &total), "device_memory");
  void* data = nullptr;
  const Status status = bytes <= free ? api().device_malloc(bytes, &data) : Status::kNoMemory;
  if (status == Status::kNoMemory) {
    fail(ErrorCode::kNoMemory, fmt::format("GPU {} ({})", device_, description_.name),
         "{} of its memory are wanted, {} of {} are free; lower what kt may use or close other "
         "programs on this GPU (nvidia-smi lists them)",
         human_bytes(bytes), human_bytes(free), human_bytes(total));
  }
  check(status, "device_malloc");
  memory_ = DeviceMemory(api(), data);
  reserved_ = end_ = bytes;
}

std::byte* Gpu::allocate_bytes(std::size_t bytes) {
  const std::size_t begin = aligned(used_, kAlignment);
  if (begin > end_ || bytes > end_ - begin) {
    fail(ErrorCode::kNoMemory, fmt::format("GPU {} ({})", device_, description_.name),
         "{} more are wanted, {} are left of the {} that were reserved", human_bytes(bytes),
         human_bytes(end_ - std::min(begin, end_)), human_bytes(reserved_));
  }
  used_ = begin + bytes;
  return static_cast<std::byte*>(memory_.get()) + begin;
}

void Gpu::set_aside(std::size_t bytes) {
  const std::byte* at = allocate_bytes(bytes);
  aside_begin_ = static_cast<std::size_t>(at - static_cast<std::byte*>(memory_.get()));
  aside_end_ = aside_begin_ + bytes;
}

Gpu::Aside::Aside(Gpu& gpu)
    : gpu_(gpu),
      used_(std::exchange(gpu.used_, gpu.aside_begin_)),
      end_(std::exchange(gpu.end_, gpu.aside_end_)) {}

Gpu::Aside::~Aside() {
  gpu_.used_ = used_;
  gpu_.end_ = end_;
}

void Gpu::upload(void* to, const void* from, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += kStagingBytes) {
    const std::size_t n = std::min(kStagingBytes, bytes - at);
    std::memcpy(stage(), static_cast<const std::byte*>(from) + at, n);
    send_staged(static_cast<std::byte*>(to) + at, n);
  }
}

std::byte* Gpu::stage() {
  const Staging& half = staging_[turn_];
  check(api().event_synchronize(half.done.get()), "event_synchronize");
  return half.data;
}

void Gpu::send_staged(void* to, std::size_t bytes) {
  const Staging& half = staging_[turn_];
  check(api().copy(to, half.data, bytes, CopyKind::kToDevice, stream()), "copy");
  check(api().event_record(half.done.get(), stream()), "event_record");
  turn_ ^= 1;
}

void Gpu::download(void* to, const void* from, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 2 * kStagingBytes) {
    const std::size_t n = std::min(2 * kStagingBytes, bytes - at);
    check(api().copy(pinned_.get(), static_cast<const std::byte*>(from) + at, n, CopyKind::kToHost,
                     stream()),
          "copy");
    synchronize();
    std::memcpy(static_cast<std::byte*>(to) + at, pinned_.get(), n);
  }
}

void Gpu::synchronize() { check(api().stream_synchronize(stream()), "stream_synchronize"); }

PinnedMemory Gpu::pinned(std::size_t bytes) const {
  void* data = nullptr;
  check(api().host_malloc(bytes, &data), "host_malloc");
  return {api(), data};
}

GpuEvent Gpu::event(bool timed) const {
  GpuEventHandle handle = nullptr;
  check(api().event_create(timed, &handle), "event_create");
  return {api(), handle};
}

GpuGraph Gpu::end_recording() {
  GpuGraphHandle handle = nullptr;
  check(api().graph_end(stream(), &handle), "graph_end");
  return {api(), handle};
}

// After a failure, whose message counts: CUDA may call the recording broken.
void Gpu::drop_recording() {
  GpuGraphHandle handle = nullptr;
  if (api().graph_end(stream(), &handle) == Status::kOk) api().graph_destroy(handle);
}

}  // namespace kt::backend
