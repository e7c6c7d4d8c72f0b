// Streaming writer of one GGUF version 3 file, alignment 32.
//
//   add metadata, declare tensors → begin_data() → append() the tensors' rows in order → finish()
//
// Only the header is held in memory; the file appears at its path when finish() succeeds.
// Thread rule: one thread at a time.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "io/atomic_file.h"
#include "io/gguf.h"

namespace kt::io {

class GgufWriter {
 public:
  static constexpr std::uint64_t kAlignment = 32;

  /// Throws kIo when nothing can be written there.
  explicit GgufWriter(const std::string& path);

  bool has(std::string_view key) const { return keys_.contains(std::string(key)); }
  /// Each key once; a second time is a bug (kInternal).
  void add_u32(std::string_view key, std::uint32_t value);
  void add_i32(std::string_view key, std::int32_t value);
  void add_u64(std::string_view key, std::uint64_t value);
  void add_f32(std::string_view key, float value);
  void add_bool(std::string_view key, bool value);
  void add_string(std::string_view key, std::string_view value);
  void add_strings(std::string_view key, std::span<const std::string> values);
  void add_f32s(std::string_view key, std::span<const float> values);
  void add_i32s(std::string_view key, std::span<const std::int32_t> values);
  void add_u32s(std::string_view key, std::span<const std::uint32_t> values);
  /// Copies a value that was read from another file.
  void add_value(std::string_view key, const GgufValue& value);

  /// Declares the next tensor; `shape` slowest first, rows divisible by the format's block length
  /// and the format one that GGUF has (kUnsupported otherwise).
  void add_tensor(std::string_view name, tensor::Format format, const tensor::Shape& shape);

  /// Writes the header; no declarations afterwards.
  void begin_data();
  /// The next bytes of the declared tensors' data, in declaration order; a call must not cross the
  /// end of a tensor. Padding between tensors is added here.
  void append(std::span<const std::byte> bytes);
  /// Bytes of tensor data declared, padding included.
  std::uint64_t data_bytes() const { return data_bytes_; }
  /// Completes the file. All declared bytes must have been appended.
  void finish();

 private:
  struct Declared {
    std::string name;
    tensor::Format format{};
    tensor::Shape shape;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };
  void begin_item(std::string_view key, GgufType type);
  void begin_array(std::string_view key, GgufType element, std::uint64_t n);
  template <class T>
  void put(T value);
  void put_string(std::string_view text);

  AtomicFile file_;
  std::string items_;  // encoded metadata
  std::uint64_t n_items_ = 0;
  std::unordered_set<std::string> keys_;
  std::vector<Declared> tensors_;
  std::unordered_set<std::string> tensor_names_;
  std::uint64_t data_bytes_ = 0;
  bool in_data_ = false;
  std::size_t current_ = 0;     // tensor being appended
  std::uint64_t appended_ = 0;  // bytes of it so far
};

}  // namespace kt::io
