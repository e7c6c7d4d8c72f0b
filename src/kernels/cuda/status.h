// What every CUDA kernel family shares with its callers: streams, statuses, element types, the
// device.
//
// Headers of this folder include no CUDA header: pointers are device pointers, a Stream is a
// cudaStream_t, sizes are counted in elements unless the name says bytes. Functions only enqueue
// work on the caller's stream: they neither allocate nor synchronise, so that a CUDA graph can
// record them; work memory is the caller's. Thread rule: functions are pure but for the device; one
// stream belongs to one thread at a time.
#pragma once
#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace kt::kernels::cuda {

using Stream = CUstream_st*;

enum class Status : std::uint8_t {
  kOk,
  kUnsupported,   // no kernel for this format, type or shape
  kBadArgument,   // sizes, strides or alignment contradict the header
  kNoWorkspace,   // less work memory than the function asks for
  kNoLibrary,     // cuBLASLt was not found on this machine
  kNoMemory,      // an allocation failed; no kernel returns this
  kDeviceFailed,  // CUDA refused a launch; device_error_text() says why
};

/// A word or two for messages, e.g. "not supported".
const char* status_text(Status status);

/// The last error CUDA reported to this thread, for messages; "no error" when there is none.
const char* device_error_text();

enum class Type : std::uint8_t { kF32, kBF16 };

constexpr std::size_t type_bytes(Type type) { return type == Type::kF32 ? 4 : 2; }

/// What launches are planned by.
struct DeviceInfo {
  int n_sms = 0;
  std::size_t l2_bytes = 0;
  std::size_t shared_bytes = 0;  // that a block may have
};

/// Reads the properties of a device. kDeviceFailed when there is no driver or no such device.
Status describe_device(int device, DeviceInfo* info);

}  // namespace kt::kernels::cuda
