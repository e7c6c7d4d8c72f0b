// Reader of GGUF files, versions 2 and 3 (the ggml project's model format).
//
//   file = "GGUF", version, n_tensors, n_metadata, metadata…, tensor infos…, padding, tensor data
//
// A GgufFile is one parsed header over a mapping; strings and arrays are views into the mapping and
// are decoded when asked for. A GgufModel is all shards of one model. Every count, length, offset
// and product is checked against the bytes that are there, so memory use is bounded by the file's
// size. Thread rule: const after construction, any thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "io/mmap_file.h"
#include "tensor/tensor.h"

namespace kt::io {

/// Value types of GGUF metadata, with the numbers of the file format.
enum class GgufType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// "u32", "string", … for messages.
std::string_view gguf_type_name(GgufType type);

/// An undecoded array: `bytes` holds n elements as in the file (strings: u64 length, then the
/// bytes).
struct GgufArray {
  GgufType element{};
  std::uint64_t n = 0;
  std::span<const std::byte> bytes;
};

/// One metadata value. Unsigned types and bool are held as u64, signed ones as i64, both floats as
/// double.
struct GgufValue {
  GgufType type{};
  std::variant<std::uint64_t, std::int64_t, double, std::string_view, GgufArray> value;
};

/// The key-value part of a header. The get functions throw kBadFile, naming the key, when the key
/// is missing and no default was given, or when its type or range does not fit.
class GgufMetadata {
 public:
  struct Item {
    std::string_view key;
    GgufValue value;
  };
  GgufMetadata() = default;
  explicit GgufMetadata(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  /// In file order.
  const std::vector<Item>& items() const { return items_; }
  const GgufValue* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  /// Any integer type that is not negative.
  std::uint64_t get_u64(std::string_view key) const;
  std::uint64_t get_u64(std::string_view key, std::uint64_t otherwise) const;
  /// Any integer type.
  std::int64_t get_i64(std::string_view key) const;
  std::int64_t get_i64(std::string_view key, std::int64_t otherwise) const;
  /// Any number type.
  double get_f64(std::string_view key) const;
  double get_f64(std::string_view key, double otherwise) const;
  bool get_bool(std::string_view key, bool otherwise) const;
  std::string_view get_string(std::string_view key) const;
  std::string_view get_string(std::string_view key, std::string_view otherwise) const;
  /// Number of elements of an array, 0 when the key is missing.
  std::uint64_t array_size(std::string_view key) const;
  /// Decoded arrays; an array of another kind of element is an error. Missing key: error.
  std::vector<std::string_view> get_strings(std::string_view key) const;
  std::vector<float> get_floats(std::string_view key) const;
  std::vector<std::int64_t> get_integers(std::string_view key) const;

  /// False when the key exists already.
  bool add(std::string_view key, GgufValue value);

 private:
  const GgufValue& require(std::string_view key) const;
  const GgufArray& require_array(std::string_view key) const;
  [[noreturn]] void wrong_type(std::string_view key, const GgufValue& value,
                               const char* wanted) const;

  std::string path_;
  std::vector<Item> items_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

struct GgufTensor {
  std::string_view name;
  tensor::Format format{};
  tensor::Shape shape;       // slowest first (the file has them fastest first)
  std::uint64_t offset = 0;  // bytes from the start of the file
  std::uint64_t bytes = 0;
};

/// Whether these bytes begin as a GGUF file does.
bool is_gguf(std::span<const std::byte> bytes);

/// One file. Throws kNotFound, kIo, kBadFile, and kUnsupported for other versions, big-endian files
/// and unknown tensor types.
class GgufFile {
 public:
  static GgufFile open(const std::string& path);
  /// Parses a file held in memory, which must outlive the object.
  static GgufFile parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  std::uint32_t version() const { return version_; }
  std::uint64_t alignment() const { return alignment_; }
  const GgufMetadata& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  std::span<const std::byte> data(const GgufTensor& tensor) const {
    return bytes_.subspan(static_cast<std::size_t>(tensor.offset),
                          static_cast<std::size_t>(tensor.bytes));
  }
  /// The mapping; empty after parse().
  const MmapFile& file() const { return file_; }

 private:
  void parse_header();

  std::string path_;
  MmapFile file_;
  std::span<const std::byte> bytes_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
};

/// All shards of a model. Metadata is that of the first shard.
class GgufModel {
 public:
  /// `path`: a file, any shard ("…-00002-of-00005.gguf") or a folder holding one model.
  /// Throws as GgufFile does, kNotFound for missing shards and kMismatch for shards of different
  /// models.
  static GgufModel open(const std::string& path);

  struct Entry {
    std::size_t file = 0;    // index into files()
    std::size_t tensor = 0;  // index into that file's tensors()
  };
  const std::string& path() const { return files_.front().path(); }
  const std::vector<GgufFile>& files() const { return files_; }
  const GgufMetadata& metadata() const { return files_.front().metadata(); }
  /// Every tensor, in file order.
  const std::vector<Entry>& entries() const { return entries_; }
  const GgufTensor& tensor(const Entry& entry) const {
    return files_[entry.file].tensors()[entry.tensor];
  }
  const GgufTensor* find(std::string_view name) const;
  /// Data of a tensor found by name.
  std::optional<std::span<const std::byte>> find_data(std::string_view name) const;

 private:
  std::vector<GgufFile> files_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

/// The shard names of a split model from one of them, in order; just `path` when it is no shard
/// name. Pure text: no file is looked at. Throws kBadFile for "-00000-of-…" and numbers beyond the
/// count.
std::vector<std::string> gguf_shard_paths(const std::string& path);

}  // namespace kt::io
