// Memory by NUMA node. On one node it is a plain buffer. On several, weights have a part for each
// node, of whole pages that are asked from that node before anything touches them, so that a node's
// workers read their own memory only; what all workers use is dealt out over the nodes.
//
//   CpuPlace → what comes from where;   NodeBuffer → the memory
//
// Weights of less than a huge page share huge pages with others (SmallWeights): a step reads all of
// them, and in pages of 4 KiB that costs a fifth of its time in address translation.
//
// Thread rule: made by the thread that loads; the memory may be used by all.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/page_binding.h"
#include "base/topology.h"
#include "tensor/tensor.h"

namespace kt::backend {

/// Which threads a CPU has and from which nodes the memory of its weights comes.
struct CpuPlace {
  std::vector<WorkerGroup> workers;
  /// Nodes over which weights are dealt out page by page; empty: each group keeps its part.
  std::vector<int> interleave;
  BindPages bind = bind_pages;
  bool several_nodes() const { return workers.size() > 1 || !interleave.empty(); }
  /// All of them.
  std::vector<int> nodes() const;
};

/// Whole pages from the system; huge ones are asked for from 2 MiB on.
class Pages {
 public:
  Pages() = default;
  /// Throws kNoMemory.
  explicit Pages(std::size_t bytes);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Hands out pieces of huge pages. A stretch of them goes back to the system with its last piece.
class SmallWeights {
 public:
  /// Larger ones get huge pages of their own.
  static constexpr std::size_t kMost = std::size_t{2} << 20;
  struct Piece {
    std::shared_ptr<const Pages> owner;
    std::span<std::byte> bytes;  // 64-byte aligned
  };
  /// Throws kNoMemory.
  Piece take(std::size_t bytes);

 private:
  std::shared_ptr<const Pages> stretch_;
  std::size_t used_ = 0;
};

class NodeBuffer {
 public:
  NodeBuffer() = default;
  NodeBuffer(tensor::Buffer buffer)  // NOLINT(*explicit*): a buffer of one part
      : buffer_(std::move(buffer)) {}
  /// Weights: one part per group of workers. Sets `refusal` to the errno when pages cannot be
  /// bound; they are used all the same. Throws kNoMemory.
  NodeBuffer(const CpuPlace& place, std::span<const std::size_t> part_bytes, int& refusal);
  /// The same; what is small and on one node comes from `small`.
  NodeBuffer(const CpuPlace& place, std::span<const std::size_t> part_bytes, int& refusal,
             SmallWeights& small);
  /// One part that all workers use, dealt out page by page over the nodes. Throws kNoMemory.
  static NodeBuffer shared(const CpuPlace& place, std::size_t bytes, int& refusal);
  /// 64-byte aligned.
  std::byte* part(std::size_t node) const {
    if (piece_.owner != nullptr) return piece_.bytes.data();
    return pages_.empty() ? buffer_.data() : pages_[node].bytes().data();
  }
  /// All of it, a span per part.
  std::vector<std::span<const std::byte>> spans() const;

 private:
  void add(const CpuPlace& place, std::size_t bytes, std::span<const int> nodes, int& refusal);
  // One of the three holds the memory.
  tensor::Buffer buffer_;
  SmallWeights::Piece piece_;
  std::vector<Pages> pages_;  // of the parts
};

}  // namespace kt::backend
