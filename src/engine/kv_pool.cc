#include "engine/kv_pool.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace kt::engine {
namespace {

std::size_t page_bytes_of(const tensor::KvStreamView& s) {
  return s.row_bytes * static_cast<std::size_t>(tensor::kKvPageLen);
}

std::int64_t pages_of(std::int64_t n_tokens) {
  return n_tokens / tensor::kKvPageLen + (n_tokens % tensor::kKvPageLen != 0 ? 1 : 0);
}

}  // namespace

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
               std::int64_t n_tokens, backend::Cpu& cpu,
               std::span<const std::unique_ptr<backend::Gpu>> gpus) {
  kv_bytes_per_token(layers, format);  // refuses formats that do not fit
  for (const tensor::KvLayerSpec& layer : layers) {
    KT_CHECK(!layer.streams.empty() && layer.streams.size() <= 2);
    const auto gpu = std::find_if(gpus.begin(), gpus.end(),
                                  [&](const auto& g) { return g->index() == layer.gpu; });
    layer_gpus_.push_back(gpu == gpus.end() ? nullptr : gpu->get());
    const tensor::Format kept = layer.gpu < 0 ? format : tensor::gpu_cache_format(format);
    tensor::KvLayerView view;
    for (std::size_t i = 0; i < layer.streams.size(); ++i) {
      const tensor::KvStreamSpec& spec = layer.streams[i];
      tensor::KvStreamView& s = view.streams[i];
      s.format = kept;
      s.n_heads = spec.n_heads;
      s.dim = spec.dim;
      s.head_bytes = formats::row_bytes(kept, spec.dim);
      s.row_bytes = s.head_bytes * static_cast<std::size_t>(spec.n_heads);
    }
    layers_.push_back(view);
  }
  grow(n_tokens, cpu);
}

void KvPool::grow(std::int64_t n_tokens, backend::Cpu& cpu) {
  const std::int64_t n_pages = pages_of(n_tokens);
  if (n_pages <= n_pages_) return;
  if (n_pages > std::numeric_limits<std::int32_t>::max())
    fail(ErrorCode::kNoMemory, {}, "no cache can hold {} tokens", n_tokens);
  std::vector<backend::NodeBuffer> buffers;
  std::vector<std::byte*> bases;  // only when all are there does anything change
  for_streams(*this, [&](const tensor::KvStreamView& s, backend::Gpu* gpu) {
    const std::size_t bytes = page_bytes_of(s) * static_cast<std::size_t>(n_pages);
    if (gpu != nullptr) {
      bases.push_back(gpu->allocate_bytes(bytes));
    } else {
      buffers.push_back(backend::NodeBuffer::shared(cpu.place, bytes, cpu.binding_refused));
      bases.push_back(buffers.back().part(0));
    }
  });
  std::size_t i = 0;
  for_streams(*this, [&](tensor::KvStreamView& s, backend::Gpu* gpu) {
    std::byte* base = bases[i++];
    move(base, s.base, page_bytes_of(s) * static_cast<std::size_t>(n_pages_), gpu);
    s.base = base;
    s.n_pages = n_pages;
  });
  buffers_ = std::move(buffers);
  n_users_.resize(static_cast<std::size_t>(n_pages));
  // The lowest is taken first.
  std::vector<std::int32_t> added;
  for (std::int64_t page = n_pages; page > n_pages_; --page)
    added.push_back(static_cast<std::int32_t>(page - 1));
  free_.insert(free_.begin(), added.begin(), added.end());
  n_pages_ = n_pages;
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

// Between steps; on a GPU in the order of its stream.
void KvPool::move(std::byte* to, const std::byte* from, std::size_t bytes, backend::Gpu* gpu,
                  backend::CopyKind kind) {
  if (bytes == 0) return;
  if (gpu == nullptr) {
    std::memcpy(to, from, bytes);
  } else {
    gpu->use();
    gpu->check(gpu->api().copy(to, from, bytes, kind, gpu->stream()), "copying the cache");
  }
}

void KvPool::wait() const {
  const backend::Gpu* last = nullptr;  // a GPU's layers are neighbours
  for (backend::Gpu* gpu : layer_gpus_) {
    if (gpu != nullptr && gpu != std::exchange(last, gpu))
      gpu->check(gpu->api().stream_synchronize(gpu->stream()), "copying the cache");
  }
}

void KvPool::copy(std::int32_t from, std::int32_t to) {
  for_streams(*this, [&](const tensor::KvStreamView& s, backend::Gpu* gpu) {
    move(s.at(&to, 0, 0), s.at(&from, 0, 0), page_bytes_of(s), gpu);
  });
}

std::size_t KvPool::page_bytes() const {
  std::size_t bytes = 0;
  for_streams(*this,
              [&](const tensor::KvStreamView& s, backend::Gpu*) { bytes += page_bytes_of(s); });
  return bytes;
}

void KvPool::read(std::int32_t page, std::byte* out) const {
  for_streams(*this, [&](const tensor::KvStreamView& s, backend::Gpu* gpu) {
    move(out, s.at(&page, 0, 0), page_bytes_of(s), gpu, backend::CopyKind::kToHost);
    out += page_bytes_of(s);
  });
  wait();
}

void KvPool::write(std::int32_t page, const std::byte* rows) {
  for_streams(*this, [&](const tensor::KvStreamView& s, backend::Gpu* gpu) {
    move(s.at(&page, 0, 0), rows, page_bytes_of(s), gpu, backend::CopyKind::kToDevice);
    rows += page_bytes_of(s);
  });
  wait();
}

bool PageTable::make_room(KvPool& pool, std::int64_t begin, std::int64_t end) {
  const std::int64_t first = begin / tensor::kKvPageLen;
  if (begin % tensor::kKvPageLen != 0 && pool.is_shared(pages_[static_cast<std::size_t>(first)])) {
    const std::int32_t own = pool.take();
    if (own < 0) return false;
    std::int32_t& page = pages_[static_cast<std::size_t>(first)];
    pool.copy(page, own);
    pool.give_back(page);
    page = own;
  }
  while (static_cast<std::int64_t>(pages_.size()) < pages_of(end)) {
    const std::int32_t page = pool.take();
    if (page < 0) return false;
    pages_.push_back(page);
  }
  return true;
}

std::int64_t PageTable::n_wanted(const KvPool& pool, std::int64_t begin, std::int64_t end) const {
  const auto n = static_cast<std::int64_t>(pages_.size());
  const bool copies = begin % tensor::kKvPageLen != 0 &&
                      pool.is_shared(pages_[static_cast<std::size_t>(begin / tensor::kKvPageLen)]);
  return std::max<std::int64_t>(pages_of(end) - n, 0) + (copies ? 1 : 0);
}

PageTable PageTable::share(KvPool& pool, std::int64_t n_tokens) const {
  PageTable other;
  other.pages_.assign(pages_.begin(), pages_.begin() + pages_of(n_tokens));
  for (const std::int32_t page : other.pages_) pool.share(page);
  return other;
}

void PageTable::truncate(KvPool& pool, std::int64_t n_tokens) {
  while (static_cast<std::int64_t>(pages_.size()) > pages_of(n_tokens)) {
    pool.give_back(pages_.back());
    pages_.pop_back();
  }
}

}  // namespace kt::engine
