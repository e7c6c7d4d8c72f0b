// Bounds-checked little-endian reading from untrusted bytes, overflow-checked products, and amounts
// of memory as text.
// Every read past the end throws kBadFile with the name of the input and the offset.
// Thread rule: a value.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/error.h"

namespace kt {

class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {}
  std::size_t position() const { return position_; }
  std::size_t remaining() const { return bytes_.size() - position_; }
  const std::string& name() const { return name_; }

  template <class T>
  T read(std::string_view what) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  /// The next n bytes, not copied.
  std::span<const std::byte> take(std::uint64_t n, std::string_view what) {
    if (n > remaining()) {
      fail(ErrorCode::kBadFile, name_,
           "ends inside {} at byte {}: {} bytes wanted, {} left; the file is "
           "truncated or damaged",
           what, position_, n, remaining());
    }
    const auto part = bytes_.subspan(position_, static_cast<std::size_t>(n));
    position_ += static_cast<std::size_t>(n);
    return part;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
  std::size_t position_ = 0;
};

/// a * b, or false when it does not fit in 63 bits or an operand is negative.
inline bool checked_multiply(std::int64_t a, std::int64_t b, std::int64_t* product) {
  return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, product);
}

/// "412.0 MiB".
std::string human_bytes(std::uint64_t bytes);

}  // namespace kt
