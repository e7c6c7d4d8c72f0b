// Memory of the key/value cache: one buffer per layer and stream, cut into pages of kKvPageLen
// tokens that sequences take, share and give back. All memory is reserved at construction. Thread
// rule: used by the engine's thread.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "operators/step.h"

namespace kt::engine {

/// Bytes one token takes over all layers.
std::size_t kv_bytes_per_token(const std::vector<tensor::KvLayerSpec>& layers,
                               tensor::Format format);

class KvPool {
 public:
  /// Room for at least n_tokens, dealt out over the NUMA nodes that `cpu` has. Throws kNoMemory,
  /// and kUnsupported when a vector is not a whole number of the format's blocks.
  KvPool(const std::vector<tensor::KvLayerSpec>& layers, tensor::Format format,
         std::int64_t n_tokens, backend::Cpu& cpu);
  std::span<const tensor::KvLayerView> layers() const { return layers_; }
  std::int64_t n_pages() const { return n_pages_; }
  std::int64_t n_free() const { return static_cast<std::int64_t>(free_.size()); }
  /// A page, or -1 when none is free.
  std::int32_t take();
  /// Adds a user to a page, which must not be written any more.
  void share(std::int32_t page);
  /// Ends one use; the page is free when no user is left.
  void give_back(std::int32_t page);
  /// Copies the rows of all layers from one page to another.
  void copy(std::int32_t from, std::int32_t to);

 private:
  std::int64_t n_pages_;
  std::vector<std::int32_t> free_;
  std::vector<std::int32_t> n_users_;  // of each page
  std::vector<tensor::KvLayerView> layers_;
  std::vector<backend::NodeBuffer> buffers_;
};

}  // namespace kt::engine
