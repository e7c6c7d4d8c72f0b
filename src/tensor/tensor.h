// Shapes, and non-owning views of tensors in host memory, and the owning aligned buffer.
// Dimension order is row-major and slowest first, as in PyTorch: a linear weight is [n_out, n_in].
// Thread rule: views are values; a Buffer is owned by one place.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/error.h"
#include "formats/format.h"

namespace kt::tensor {

using formats::Format;

/// Up to four dimensions, slowest first.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) {
    KT_CHECK(dims.size() <= kMaxRank);
    for (const std::int64_t d : dims) dims_[static_cast<std::size_t>(rank_++)] = d;
  }
  static constexpr std::size_t kMaxRank = 4;
  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  void push_back(std::int64_t d) {
    KT_CHECK(static_cast<std::size_t>(rank_) < kMaxRank);
    dims_[static_cast<std::size_t>(rank_++)] = d;
  }
  /// Length of a row (the fastest dimension); 1 for a scalar.
  std::int64_t n_cols() const { return rank_ == 0 ? 1 : (*this)[rank_ - 1]; }
  /// Product of all dimensions but the last.
  std::int64_t n_rows() const {
    std::int64_t n = 1;
    for (int i = 0; i + 1 < rank_; ++i) n *= (*this)[i];
    return n;
  }
  std::int64_t count() const { return n_rows() * n_cols(); }
  bool operator==(const Shape&) const = default;
  std::string to_string() const;  // "[2048, 768]"

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// Constant weight data in host memory: rows of blocks, contiguous. Does not own.
struct WeightView {
  Format format{};
  Shape shape;  // [.., n_rows, n_cols]
  const std::byte* data = nullptr;
  std::size_t row_bytes() const { return formats::row_bytes(format, shape.n_cols()); }
  std::size_t bytes() const { return row_bytes() * static_cast<std::size_t>(shape.n_rows()); }
  const std::byte* row(std::int64_t r) const {
    return data + row_bytes() * static_cast<std::size_t>(r);
  }
};

/// A float matrix with a row stride (in elements); how activations travel between operators on the
/// CPU.
template <class T>
struct Matrix {
  T* data = nullptr;
  std::int64_t n_rows = 0;
  std::int64_t n_cols = 0;
  std::int64_t stride = 0;
  T* row(std::int64_t r) const { return data + r * stride; }
  Matrix rows(std::int64_t begin, std::int64_t count) const {
    return {data + begin * stride, count, n_cols, stride};
  }
  operator Matrix<const T>() const { return {data, n_rows, n_cols, stride}; }  // NOLINT(*explicit*)
};
using MatrixF = Matrix<float>;
using ConstMatrixF = Matrix<const float>;

/// Owning, 64-byte aligned, uninitialised host memory; huge pages are asked for above 2 MiB.
/// Throws kNoMemory.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace kt::tensor
