// Rows for the host and from it, in the middle of a graph: one kernel copies them to pinned memory
// and then sets a flag, on which the host waits; another waits for the host's flag and then adds
// the rows that the host left, as soon as they can be read. Thread rule: status.h.
#pragma once
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// Up to so many bytes in all one block copies as fast as a copy engine starts.
inline constexpr std::size_t kPublishBytes = 32 << 10;
inline constexpr int kPublishParts = 4;

struct PublishPart {
  const void* from = nullptr;  // device memory
  void* to = nullptr;          // pinned memory, by device address
  std::size_t bytes = 0;
};

struct PublishArgs {
  PublishPart parts[kPublishParts];
  int n_parts = 0;
  std::uint32_t* flag = nullptr;  // pinned memory, by device address
  std::uint32_t value = 0;
};

/// The flag holds `value` once all parts are there. kUnsupported for more than kPublishBytes.
Status publish(const PublishArgs& args, Stream stream);

struct AddAwaitedArgs {
  const std::uint32_t* flag = nullptr;  // pinned memory, by device address
  std::uint32_t value = 0;
  const float* rows = nullptr;  // [n], the same, not read before the flag is set
  void* sum = nullptr;          // [n], device memory
  Type type = Type::kF32;
  std::int64_t n = 0;
};

/// Once the flag holds `value`: sum += rows.
Status add_awaited(const AddAwaitedArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
