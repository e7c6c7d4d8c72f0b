// Rows for the host and from it, in the middle of a graph.
//
//   publish      copies rows to pinned memory and then sets a flag, on which the host waits
//   add_tagged   adds rows of pinned memory; each value has a tag beside it that says whether it is
//                this run's, so that one read over the link brings both (LL protocol of NCCL)
//
// Thread rule: status.h.
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

/// What the host writes in one piece.
struct alignas(8) TaggedFloat {
  float value;
  std::uint32_t tag;
};

/// Up to so many bytes of them read over the link sooner than a wait for a flag and a read of half
/// as many.
inline constexpr std::size_t kTaggedBytes = 64 << 10;

struct AddTaggedArgs {
  const TaggedFloat* rows = nullptr;   // [n], pinned memory, by device address, 16-byte aligned
  const std::uint32_t* tag = nullptr;  // device memory: this run's
  /// Pinned memory, by device address: nanoseconds that the last run waited. All threads ask for
  /// their values only when that time is nearly over, not to take bandwidth from the host.
  std::uint32_t* waited = nullptr;
  void* sum = nullptr;  // [n], device memory
  Type type = Type::kF32;
  std::int64_t n = 0;  // even
};

/// Once all rows carry the tag: sum += rows.
Status add_tagged(const AddTaggedArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
