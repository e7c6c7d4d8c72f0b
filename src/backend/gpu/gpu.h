// One opened GPU: its stream, pinned memory for copies, and the device memory that it may use.
//
//   GpuLibrary::find() → Gpu(library, device, bytes) → allocate, upload, kernels of api()
//
// All its device memory is reserved when it is opened and handed out in pieces, so that nothing is
// allocated later and no other program can take it away. Failures are kt::Error here; on hot paths
// callers look at the Status themselves.
// Thread rule: a Gpu belongs to one thread at a time, which calls use() before its first call.
#pragma once
#include <memory>
#include <utility>

#include "backend/gpu/gpu_library.h"
#include "base/align.h"

namespace kt::backend {

/// Something of a plug-in that must be given back. The table outlives it: plug-ins stay loaded.
template <class T, void (*GpuApi::*kFree)(T)>
class GpuOwned {
 public:
  GpuOwned() = default;
  GpuOwned(const GpuApi& api, T value) : api_(&api), value_(value) {}
  GpuOwned(GpuOwned&& other) noexcept
      : api_(other.api_), value_(std::exchange(other.value_, nullptr)) {}
  GpuOwned& operator=(GpuOwned&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(value_, other.value_);
    return *this;
  }
  ~GpuOwned() {
    if (value_ != nullptr) (api_->*kFree)(value_);
  }
  T get() const { return value_; }

 private:
  const GpuApi* api_ = nullptr;
  T value_ = nullptr;
};
using DeviceMemory = GpuOwned<void*, &GpuApi::device_free>;
using PinnedMemory = GpuOwned<void*, &GpuApi::host_free>;
using RegisteredMemory = GpuOwned<void*, &GpuApi::host_unregister>;
using GpuStream = GpuOwned<Stream, &GpuApi::stream_destroy>;
using GpuEvent = GpuOwned<GpuEventHandle, &GpuApi::event_destroy>;
using GpuGraph = GpuOwned<GpuGraphHandle, &GpuApi::graph_destroy>;
using GpuBlas = GpuOwned<kernels::cuda::BlasLt*, &GpuApi::blas_close>;

class Gpu {
 public:
  static constexpr std::size_t kAlignment = 256;

  /// Opens a device and reserves `bytes` of its memory. Throws kNoMemory, with what is free, when
  /// it has not got them, kNotFound for a device that is not there, kIo when the driver refuses.
  Gpu(std::shared_ptr<const GpuLibrary> library, int device, std::size_t bytes);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  /// Makes this the device of the calling thread.
  void use() const;

  /// The number in "cuda:0".
  int index() const { return device_; }
  const GpuLibrary& library() const { return *library_; }
  const GpuApi& api() const { return library_->api(); }
  const GpuDescription& description() const { return description_; }
  const kernels::cuda::DeviceInfo& info() const { return description_.info; }
  Stream stream() const { return stream_.get(); }
  /// Null on a machine without cuBLASLt.
  kernels::cuda::BlasLt* blas() const { return blas_.get(); }

  /// A piece of the reserved memory, aligned to kAlignment, uninitialised. Throws kNoMemory.
  std::byte* allocate_bytes(std::size_t bytes);
  template <class T>
  T* allocate(std::int64_t count) {
    return reinterpret_cast<T*>(allocate_bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }
  std::size_t reserved() const { return reserved_; }
  std::size_t used() const { return used_; }
  std::size_t mark() const { return used_; }
  /// Gives back all that was allocated since mark().
  void release(std::size_t mark) { used_ = mark; }
  /// Keeps a piece for what comes and goes later: while an Aside lives, memory is allocated there,
  /// in place of what an earlier one left. Throws kNoMemory.
  void set_aside(std::size_t bytes);
  class Aside {
   public:
    explicit Aside(Gpu& gpu);
    ~Aside();
    Aside(const Aside&) = delete;
    Aside& operator=(const Aside&) = delete;

   private:
    Gpu& gpu_;
    std::size_t used_, end_;
  };

  /// Copies in the order of stream(), by way of pinned memory. `from` may change after upload
  /// returns; `to` is complete when download returns.
  void upload(void* to, const void* from, std::size_t bytes);
  void download(void* to, const void* from, std::size_t bytes);
  void synchronize();
  /// The same in two steps, so that the next piece is brought while this one travels: pinned memory
  /// of kStagingBytes that no copy uses any more, and the copy of what is in it.
  std::byte* stage();
  void send_staged(void* to, std::size_t bytes);
  static constexpr std::size_t kStagingBytes = std::size_t{8} << 20;

  /// Pinned and mapped host memory. Throws kNoMemory.
  PinnedMemory pinned(std::size_t bytes) const;
  GpuEvent event(bool timed) const;

  /// What f() gives to stream(), recorded as a graph and not run.
  template <class F>
  GpuGraph record(F&& f) {
    check(api().graph_begin(stream()), "graph_begin");
    try {
      f();
    } catch (...) {
      drop_recording();
      throw;
    }
    return end_recording();
  }

  /// Throws unless kOk: which device, what was called, the reason.
  void check(Status status, const char* what) const;
  /// "what: the reason", of a failure of this thread.
  std::string describe(Status status, const char* what) const;

 private:
  /// Half of the pinned memory that copies go through, and when the GPU is done with it.
  struct Staging {
    std::byte* data = nullptr;
    GpuEvent done;
  };
  void reserve(std::size_t bytes);
  GpuGraph end_recording();
  void drop_recording();

  std::shared_ptr<const GpuLibrary> library_;
  int device_ = 0;
  GpuDescription description_;
  GpuStream stream_;
  GpuBlas blas_;
  DeviceMemory memory_;
  std::size_t reserved_ = 0, used_ = 0;
  std::size_t end_ = 0;  // of what may be allocated now
  std::size_t aside_begin_ = 0, aside_end_ = 0;
  PinnedMemory pinned_;
  Staging staging_[2];
  std::size_t turn_ = 0;  // the half to fill next
};

}  // namespace kt::backend
