// What attention sees of the key/value cache: paged rows of one layer.
//
// A cache row holds one token's data of one stream ("k", "v", or MLA's "latent"): n_heads vectors
// of dim values in a storage format (F32, F16, BF16, F8_E4M3, Q8_0). Rows live in pages of
// kKvPageLen tokens; a sequence's page table maps position p to row pages[p / kKvPageLen] *
// kKvPageLen + p % kKvPageLen. The engine owns the pool and the tables; all layers share a
// sequence's table. Thread rule: views are values; rows of one position are written by one thread
// before any read.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace kt::tensor {

inline constexpr std::int64_t kKvPageLen = 64;

/// Whether cache rows can be kept in this format: F32, F16, BF16, F8_E4M3, or Q8_0 for whole
/// blocks.
inline bool cache_format_fits(Format format, std::int64_t dim) {
  return format == Format::kF32 || format == Format::kF16 || format == Format::kBF16 ||
         format == Format::kF8_E4M3 || (format == Format::kQ8_0 && dim % 32 == 0);
}

/// In which format a GPU keeps the rows of its layers where the CPU keeps its own in `format`.
inline Format gpu_cache_format(Format format) {
  return format == Format::kF8_E4M3 ? format : Format::kBF16;
}

/// One stream of a layer's sequence state, as the attention operator declares it.
struct KvStreamSpec {
  std::string name;          // "k", "v", "latent"
  std::int64_t n_heads = 0;  // vectors per token
  std::int64_t dim = 0;      // values per vector
};

/// State of one layer: every stream paged, one row per token.
struct KvLayerSpec {
  std::vector<KvStreamSpec> streams;  // one or two
  int gpu = -1;  // that reads and writes them, in gpu_cache_format(); -1: the CPU
};

/// One stream of one layer in the pool.
struct KvStreamView {
  std::byte* base = nullptr;  // on the GPU of the layer's KvLayerSpec, if there is one
  Format format{};
  std::int64_t n_heads = 0;
  std::int64_t dim = 0;
  std::size_t head_bytes = 0;  // bytes of one vector
  std::size_t row_bytes = 0;   // n_heads * head_bytes
  std::int64_t n_pages = 0;    // of the pool

  /// Vector of `head` at sequence position `position`.
  std::byte* at(const std::int32_t* pages, std::int64_t position, std::int64_t head) const {
    const std::int64_t row =
        std::int64_t{pages[position / kKvPageLen]} * kKvPageLen + position % kKvPageLen;
    return base + static_cast<std::size_t>(row) * row_bytes +
           static_cast<std::size_t>(head) * head_bytes;
  }
};

/// Streams of one layer, in the order of its KvLayerSpec.
struct KvLayerView {
  KvStreamView streams[2];
};

}  // namespace kt::tensor
