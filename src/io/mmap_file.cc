#include "io/mmap_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace kt::io {
namespace {

[[noreturn]] void fail_errno(const std::string& path, const char* action, int error) {
  const std::string reason = std::generic_category().message(error);
  if (error == ENOENT || error == ENOTDIR) {
    fail(ErrorCode::kNotFound, path, "no such file; check the path");
  }
  fail(ErrorCode::kIo, path, "cannot {}: {}", action, reason);
}

std::size_t page_size() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

}  // namespace

MmapFile::MmapFile(const std::string& path) : path_(path) {
  // Without O_NONBLOCK, opening a pipe that nobody writes would hang.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail_errno(path, "open it", errno);
  struct stat info{};
  if (::fstat(fd, &info) != 0) {
    const int error = errno;
    ::close(fd);
    fail_errno(path, "read its size", error);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    fail(ErrorCode::kIo, path, "is not a regular file; name a file that can be mapped");
  }
  size_ = static_cast<std::size_t>(info.st_size);
  if (size_ > 0) {
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    ::close(fd);
    if (data == MAP_FAILED) {
      size_ = 0;
      fail_errno(path, "map it", error);
    }
    data_ = static_cast<std::byte*>(data);
  } else {
    ::close(fd);
  }
}

MmapFile::~MmapFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MmapFile::dont_need(std::size_t offset, std::size_t length) const noexcept {
  if (offset >= size_ || length == 0) return;
  const std::size_t page = page_size();
  const std::size_t end = offset + std::min(length, size_ - offset);
  const std::size_t first = (offset + page - 1) / page * page;
  // The last page of the file has no neighbour that could still be in use.
  const std::size_t last = end == size_ ? size_ : end / page * page;
  if (first < last) ::madvise(data_ + first, last - first, MADV_DONTNEED);
}

}  // namespace kt::io
