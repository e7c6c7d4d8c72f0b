// Reader and writer of safetensors files, and of folders with model.safetensors.index.json.
//
//   file = u64 header length, JSON header {name: {dtype, shape, data_offsets}}, data
//
// The header is parsed as a stream without building a JSON tree. Offsets must be in range, sizes
// must equal the shape's product, tensors must not overlap. Thread rule: const after construction,
// any thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/mmap_file.h"
#include "tensor/tensor.h"

namespace kt::io {

enum class SafeType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8_E4M3,
  kF8_E5M2,
  kF8_E8M0,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
};
/// "F32", "F8_E4M3", … as in the header.
std::string_view safe_type_name(SafeType type);
std::size_t safe_type_bytes(SafeType type);

struct SafeTensor {
  std::string name;
  SafeType type{};
  tensor::Shape shape;
  std::uint64_t offset = 0;  // bytes from the start of the file
  std::uint64_t bytes = 0;
};

class SafetensorsFile {
 public:
  /// Throws kNotFound, kIo, kBadFile, and kUnsupported for unknown element types and ranks above 4.
  static SafetensorsFile open(const std::string& path);
  /// Parses a file held in memory, which must outlive the object.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  const std::vector<SafeTensor>& tensors() const { return tensors_; }
  /// The header's "__metadata__" strings.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::span<const std::byte> data(const SafeTensor& tensor) const {
    return bytes_.subspan(static_cast<std::size_t>(tensor.offset),
                          static_cast<std::size_t>(tensor.bytes));
  }
  const MmapFile& file() const { return file_; }

 private:
  void parse_header();

  std::string path_;
  MmapFile file_;
  std::span<const std::byte> bytes_;
  std::vector<SafeTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// All files of one model.
class SafetensorsModel {
 public:
  /// `path`: a .safetensors file (a shard whose folder has an index opens the whole model), or a
  /// folder with an index or with .safetensors files. Throws as SafetensorsFile, kMismatch when
  /// index and files disagree.
  static SafetensorsModel open(const std::string& path);

  struct Ref {
    std::size_t file = 0;
    std::size_t tensor = 0;
  };
  const std::vector<SafetensorsFile>& files() const { return files_; }
  /// Every tensor, in file order.
  const std::vector<Ref>& refs() const { return refs_; }
  const SafeTensor& tensor(const Ref& ref) const { return files_[ref.file].tensors()[ref.tensor]; }
  const Ref* find(std::string_view name) const;
  std::span<const std::byte> data(const Ref& ref) const {
    return files_[ref.file].data(tensor(ref));
  }

 private:
  void add_file(const std::string& path);

  std::vector<SafetensorsFile> files_;
  std::vector<Ref> refs_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

struct SafeTensorData {
  std::string name;
  SafeType type{};
  tensor::Shape shape;
  std::span<const std::byte> data;
};

/// Writes one file, atomically. Throws kIo; data sizes must fit shapes.
void write_safetensors(const std::string& path, std::span<const SafeTensorData> tensors);

}  // namespace kt::io
