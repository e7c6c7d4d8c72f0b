// Writes a file so that readers see the old one or the complete new one, never a part.
//
//   nameless file in the target's folder → write … → finish(): fsync, link or rename to the target
//
// Destroyed without finish(), or with its process killed, it leaves nothing. On a file system
// without nameless files (O_TMPFILE) a temporary beside the target takes their place; only a kill
// leaves that behind. Thread rule: one thread at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kt::io {

class AtomicFile {
 public:
  /// Whether finish() waits for the disk. Without, a power failure may leave a file of the right
  /// name and wrong contents.
  enum class Sync { kDisk, kNone };
  /// Creates the temporary, with these permissions less the umask. Throws kIo (no such folder, no
  /// permission, target is a folder).
  explicit AtomicFile(std::string path, Sync sync = Sync::kDisk, unsigned mode = 0666);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& path() const { return path_; }
  /// Bytes written so far.
  std::uint64_t position() const { return position_; }

  /// Appends. Throws kIo, e.g. when the disk is full.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Appends n zero bytes.
  void write_zeros(std::uint64_t n);
  /// Makes the file appear at its path. Throws kIo; call once, last.
  void finish();

 private:
  std::string temporary_name(int attempt) const;
  void name_it();
  void flush();
  void write_through(std::span<const std::byte> bytes);

  std::string path_;
  Sync sync_;
  unsigned mode_;
  std::string temporary_;  // empty while the file has no name
  int fd_ = -1;
  std::uint64_t position_ = 0;
  std::vector<std::byte> buffer_;
};

/// Replaces the file at `path` by `text`, atomically. Throws kIo.
void write_file(const std::string& path, std::string_view text);

}  // namespace kt::io
