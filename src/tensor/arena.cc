#include "tensor/arena.h"

#include <algorithm>

#include "base/align.h"

namespace kt::tensor {

void* Arena::allocate_bytes(std::size_t bytes) {
  constexpr std::size_t kAlign = 64;
  constexpr std::size_t kMinChunk = std::size_t{4} << 20;
  bytes = std::max(kAlign, aligned(bytes, kAlign));
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    const std::size_t end = starts_[i] + chunks_[i].size();
    if (used_ + bytes > end && used_ < end) used_ = end;  // does not fit: skip this chunk's tail
    if (used_ >= starts_[i] && used_ + bytes <= end) {
      std::byte* p = chunks_[i].data() + (used_ - starts_[i]);
      used_ += bytes;
      return p;
    }
  }
  const std::size_t start = chunks_.empty() ? 0 : starts_.back() + chunks_.back().size();
  const std::size_t size = aligned(std::max(bytes, kMinChunk), kAlign);
  chunks_.emplace_back(size);
  starts_.push_back(start);
  used_ = start + bytes;
  return chunks_.back().data();
}

void Arena::reset() {
  used_ = 0;
  if (chunks_.size() < 2) return;
  const std::size_t total = capacity();  // one chunk of the whole size serves the next step
  chunks_.clear();
  starts_.clear();
  chunks_.emplace_back(total);
  starts_.push_back(0);
}

std::size_t Arena::capacity() const {
  std::size_t total = 0;
  for (const Buffer& c : chunks_) total += c.size();
  return total;
}

}  // namespace kt::tensor
