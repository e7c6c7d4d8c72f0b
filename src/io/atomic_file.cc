#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "base/error.h"
#include "io/files.h"

namespace kt::io {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

[[noreturn]] void fail_errno(const std::string& path, const char* action, int error) {
  fail(ErrorCode::kIo, path, "cannot {}: {}", action, std::generic_category().message(error));
}

constexpr int kAttempts = 1000;
constexpr const char* kCreate = "create a file beside it to write to";

std::string descriptor_path(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

// A file without a name, which vanishes with its process however that ends; -1 where the file
// system has none or it could not be named later.
int open_nameless(const std::string& folder, unsigned mode) {
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
  if (fd >= 0 && ::access(descriptor_path(fd).c_str(), F_OK) != 0) {
    ::close(fd);
    return -1;
  }
  return fd;
}

}  // namespace

AtomicFile::AtomicFile(std::string path, Sync sync, unsigned mode)
    : path_(std::move(path)), sync_(sync), mode_(mode) {
  if (is_directory(path_)) fail(ErrorCode::kIo, path_, "is a folder; name a file to write");
  buffer_.reserve(kBufferBytes);
  struct stat ignored{};
  if (::lstat(temporary_name(0).c_str(), &ignored) != 0 && errno != ENOENT) {
    fail_errno(path_, kCreate, errno);
  }
  fd_ = open_nameless(folder_of(path_), mode_);
  if (fd_ >= 0) return;
  for (int attempt = 0; attempt < kAttempts && fd_ < 0; ++attempt) {
    temporary_ = temporary_name(attempt);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode_);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) {
    const int error = errno;
    temporary_.clear();
    fail_errno(path_, kCreate, error);
  }
}

std::string AtomicFile::temporary_name(int attempt) const {
  return fmt::format("{}.tmp-{}-{}", path_, ::getpid(), attempt);
}

// Gives the nameless file the target's name, or, where that is taken, a name to rename from.
void AtomicFile::name_it() {
  const std::string source = descriptor_path(fd_);
  std::string name = path_;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      if (name != path_) temporary_ = name;
      return;
    }
    if (errno != EEXIST) break;
    name = temporary_name(attempt);
  }
  fail_errno(path_, "name the finished file", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  position_ += bytes.size();
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    write_through(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void AtomicFile::write_zeros(std::uint64_t n) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  while (n > 0) {
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(n, kZeros.size()));
    write(std::span(kZeros).first(part));
    n -= part;
  }
}

void AtomicFile::flush() {
  write_through(buffer_);
  buffer_.clear();
}

void AtomicFile::write_through(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path_, "write it", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void AtomicFile::finish() {
  flush();
  if (sync_ == Sync::kDisk && ::fsync(fd_) != 0) fail_errno(path_, "flush it to disk", errno);
  if (temporary_.empty()) name_it();
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) fail_errno(path_, "close it", errno);
  if (!temporary_.empty() && ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail_errno(path_, "rename the finished file to it", errno);
  }
  temporary_.clear();
  if (sync_ == Sync::kNone) return;
  // The rename is durable once the folder is; a file system without this ability is no failure.
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
}

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.finish();
}

}  // namespace kt::io
