// A file mapped read-only as a whole, whose pages can be given back to the system.
// The mapping is private and lives as long as the object; an empty file maps to an empty span.
// Thread rule: const methods may run from any thread.
#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace kt::io {

class MmapFile {
 public:
  MmapFile() = default;
  /// Throws kNotFound when there is no such file, kIo for anything else the system refuses.
  explicit MmapFile(const std::string& path);
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;
  MmapFile(const MmapFile&) = delete;
  MmapFile& operator=(const MmapFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::size_t size() const { return size_; }

  /// Lets the system drop the whole pages inside [offset, offset + length), clipped to the file;
  /// they are read again when touched.
  void dont_need(std::size_t offset, std::size_t length) const noexcept;

 private:
  std::string path_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace kt::io
