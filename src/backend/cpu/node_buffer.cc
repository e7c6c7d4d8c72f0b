#include "backend/cpu/node_buffer.h"

#include <sys/mman.h>

#include <utility>

namespace kt::backend {

Pages::Pages(std::size_t bytes) {
  if (bytes == 0) return;
  constexpr std::size_t kPage = 4096, kHuge = std::size_t{2} << 20;
  const std::size_t align = bytes >= kHuge ? kHuge : kPage;
  const std::size_t size = (bytes + align - 1) / align * align;
  const std::size_t reserved = size + align - kPage;
  void* at = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    fail(ErrorCode::kNoMemory, {}, "cannot allocate {} MiB of memory", bytes >> 20);
  }
  auto* begin = static_cast<std::byte*>(at);
  const std::size_t before = (align - reinterpret_cast<std::size_t>(at) % align) % align;
  const std::size_t after = reserved - before - size;
  if (before > 0) ::munmap(begin, before);
  if (after > 0) ::munmap(begin + before + size, after);
  data_ = begin + before;
  size_ = size;
  if (bytes >= kHuge) ::madvise(data_, size_, MADV_HUGEPAGE);
}

Pages::~Pages() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

SmallWeights::Piece SmallWeights::take(std::size_t bytes) {
  // What no piece touches takes no memory.
  constexpr std::size_t kStretch = std::size_t{64} << 20;
  const std::size_t size = (bytes + 63) / 64 * 64;
  if (stretch_ == nullptr || used_ + size > stretch_->bytes().size()) {
    stretch_ = std::make_shared<const Pages>(kStretch);
    used_ = 0;
  }
  const Piece piece{stretch_, stretch_->bytes().subspan(used_, bytes)};
  used_ += size;
  return piece;
}

std::vector<int> CpuPlace::nodes() const {
  if (!interleave.empty()) return interleave;
  std::vector<int> nodes;
  for (const WorkerGroup& group : workers) nodes.push_back(group.node);
  return nodes;
}

NodeBuffer::NodeBuffer(const CpuPlace& place, std::span<const std::size_t> part_bytes,
                       int& refusal) {
  if (!place.several_nodes()) {
    buffer_ = tensor::Buffer(part_bytes.front());
    return;
  }
  for (std::size_t i = 0; i < part_bytes.size(); ++i) {
    add(place, part_bytes[i],
        place.interleave.empty() ? std::span<const int>(&place.workers[i].node, 1)
                                 : std::span<const int>(place.interleave),
        refusal);
  }
}

NodeBuffer::NodeBuffer(const CpuPlace& place, std::span<const std::size_t> part_bytes, int& refusal,
                       SmallWeights& small) {
  if (place.several_nodes() || part_bytes.front() >= SmallWeights::kMost) {
    *this = NodeBuffer(place, part_bytes, refusal);
  } else {
    piece_ = small.take(part_bytes.front());
  }
}

NodeBuffer NodeBuffer::shared(const CpuPlace& place, std::size_t bytes, int& refusal) {
  NodeBuffer buffer;
  if (place.several_nodes()) {
    buffer.add(place, bytes, place.nodes(), refusal);
  } else {
    buffer.buffer_ = tensor::Buffer(bytes);
  }
  return buffer;
}

void NodeBuffer::add(const CpuPlace& place, std::size_t bytes, std::span<const int> nodes,
                     int& refusal) {
  const Pages& pages = pages_.emplace_back(bytes);
  if (pages.bytes().empty()) return;
  if (const int error = place.bind(pages.bytes(), nodes); error != 0) refusal = error;
}

std::vector<std::span<const std::byte>> NodeBuffer::spans() const {
  if (piece_.owner != nullptr) return {piece_.bytes};
  std::vector<std::span<const std::byte>> spans;
  if (pages_.empty()) spans.push_back({buffer_.data(), buffer_.size()});
  for (const Pages& pages : pages_) {
    if (!pages.bytes().empty()) spans.push_back(pages.bytes());
  }
  return spans;
}

}  // namespace kt::backend
