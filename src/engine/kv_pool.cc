#include "engine/kv_pool.h"

#include <cstring>

namespace kt::engine {

std::size_t kv_bytes_per_token(const std::vector<tensor::KvLayerSpec>& layers,
                               tensor::Format format) {
  std::size_t bytes = 0;
  for (const tensor::KvLayerSpec& layer : layers) {
    for (const tensor::KvStreamSpec& s : layer.streams) {
      if (!tensor::cache_format_fits(format, s.dim)) {
        fail(ErrorCode::kUnsupported, "--kv",
             "the cache of this model has vectors of {} values, which {} cannot hold; use f16, "
             "bf16 or f32",
             s.dim, formats::traits(format).name);
      }
      bytes += formats::row_bytes(format, s.dim) * static_cast<std::size_t>(s.n_heads);
    }
  }
  return bytes;
}

KvPool::KvPool(const std::vector<tensor::KvLayerSpec>& layers, tensor::Format format,
               std::int64_t n_tokens, backend::Cpu& cpu)
    : n_pages_((n_tokens + tensor::kKvPageLen - 1) / tensor::kKvPageLen),
      n_users_(static_cast<std::size_t>(n_pages_)) {
  kv_bytes_per_token(layers, format);  // refuses formats that do not fit
  for (const tensor::KvLayerSpec& layer : layers) {
    KT_CHECK(!layer.streams.empty() && layer.streams.size() <= 2);
    tensor::KvLayerView view;
    for (std::size_t i = 0; i < layer.streams.size(); ++i) {
      const tensor::KvStreamSpec& spec = layer.streams[i];
      tensor::KvStreamView& s = view.streams[i];
      s.format = format;
      s.n_heads = spec.n_heads;
      s.dim = spec.dim;
      s.head_bytes = formats::row_bytes(format, spec.dim);
      s.row_bytes = s.head_bytes * static_cast<std::size_t>(spec.n_heads);
      const std::size_t bytes =
          s.row_bytes * static_cast<std::size_t>(n_pages_ * tensor::kKvPageLen);
      buffers_.push_back(backend::NodeBuffer::shared(cpu.place, bytes, cpu.binding_refused));
      s.base = buffers_.back().part(0);
    }
    layers_.push_back(view);
  }
  for (std::int64_t page = n_pages_; page > 0; --page)
    free_.push_back(static_cast<std::int32_t>(page - 1));
}

std::int32_t KvPool::take() {
  if (free_.empty()) return -1;
  const std::int32_t page = free_.back();
  free_.pop_back();
  n_users_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void KvPool::share(std::int32_t page) { ++n_users_[static_cast<std::size_t>(page)]; }

void KvPool::give_back(std::int32_t page) {
  if (--n_users_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

void KvPool::copy(std::int32_t from, std::int32_t to) {
  for (const tensor::KvLayerView& layer : layers_) {
    for (const tensor::KvStreamView& s : layer.streams) {
      if (s.base != nullptr) {
        std::memcpy(s.at(&to, 0, 0), s.at(&from, 0, 0),
                    s.row_bytes * static_cast<std::size_t>(tensor::kKvPageLen));
      }
    }
  }
}

}  // namespace kt::engine
