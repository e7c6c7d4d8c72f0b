// Memory of the key/value cache: one buffer per layer and stream, cut into pages of kKvPageLen
// tokens that sequences take, share and give back. Memory is reserved at construction and by
// grow(). A PageTable holds the pages of one sequence; a page that several hold is copied by the
// one that writes next. Thread rule: used by one thread, the engine's.
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
  /// Room for at least n_tokens, dealt out over the NUMA nodes that `cpu` has; layers of a GPU are
  /// there, in tensor::gpu_cache_format(). Throws kNoMemory, and kUnsupported when a vector is not
  /// a whole number of the format's blocks.
  KvPool(const std::vector<tensor::KvLayerSpec>& layers, tensor::Format format,
         std::int64_t n_tokens, backend::Cpu& cpu,
         std::span<const std::unique_ptr<backend::Gpu>> gpus = {});
  std::span<const tensor::KvLayerView> layers() const { return layers_; }
  std::int64_t n_pages() const { return n_pages_; }
  std::int64_t n_free() const { return static_cast<std::int64_t>(free_.size()); }
  /// A page, or -1 when none is free.
  std::int32_t take();
  /// Adds a user to a page, which must not be written then.
  void share(std::int32_t page);
  /// Ends one use; the page is free when no user is left.
  void give_back(std::int32_t page);
  bool is_shared(std::int32_t page) const { return n_users_[static_cast<std::size_t>(page)] > 1; }
  /// Copies the rows of all layers from one page to another.
  void copy(std::int32_t from, std::int32_t to);
  /// Bytes of a page, over all layers.
  std::size_t page_bytes() const;
  /// The rows of all layers, one stream after the other: page_bytes() long.
  void read(std::int32_t page, std::byte* out) const;
  void write(std::int32_t page, const std::byte* rows);
  /// Makes room for at least n_tokens in all; pages keep their numbers and rows. Throws kNoMemory.
  void grow(std::int64_t n_tokens, backend::Cpu& cpu);

 private:
  // visit(stream, its GPU or null) for all.
  template <class Self, class F>
  static void for_streams(Self& self, F&& visit) {
    for (std::size_t i = 0; i < self.layers_.size(); ++i) {
      for (auto& s : self.layers_[i].streams) {
        if (s.row_bytes != 0) visit(s, self.layer_gpus_[i]);
      }
    }
  }
  static void move(std::byte* to, const std::byte* from, std::size_t bytes, backend::Gpu* gpu,
                   backend::CopyKind kind = backend::CopyKind::kOnDevice);
  void wait() const;
  std::int64_t n_pages_ = 0;
  std::vector<std::int32_t> free_;
  std::vector<std::int32_t> n_users_;  // of each page
  std::vector<tensor::KvLayerView> layers_;
  std::vector<backend::Gpu*> layer_gpus_;
  std::vector<backend::NodeBuffer> buffers_;
};

class PageTable {
 public:
  const std::int32_t* data() const { return pages_.data(); }
  bool empty() const { return pages_.empty(); }
  std::int64_t size() const { return static_cast<std::int64_t>(pages_.size()); }
  std::int32_t operator[](std::int64_t i) const { return pages_[static_cast<std::size_t>(i)]; }
  /// Room for positions [begin, end), which may be written then: takes the pages that are missing,
  /// and copies the one of `begin` when others use it. False when no page is free; what it took
  /// stays.
  bool make_room(KvPool& pool, std::int64_t begin, std::int64_t end);
  /// Pages that make_room would take.
  std::int64_t n_wanted(const KvPool& pool, std::int64_t begin, std::int64_t end) const;
  /// A table of the first n_tokens, on the same pages.
  PageTable share(KvPool& pool, std::int64_t n_tokens) const;
  /// Gives back the pages behind the first n_tokens.
  void truncate(KvPool& pool, std::int64_t n_tokens);

 private:
  std::vector<std::int32_t> pages_;
};

}  // namespace kt::engine
