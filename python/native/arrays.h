// Arrays of other frameworks as pointers, by DLPack and without copies, checked: every error names
// the argument, what it was and what was wanted.
// Thread rule: taken apart with Python's lock held; afterwards plain pointers.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "compute.h"

namespace kt::python {

using ArrayIn = nanobind::ndarray<nanobind::ro>;
using ArrayOut = nanobind::ndarray<>;

enum class Element { kF32, kF16, kBF16, kU8, kI32, kI64 };
inline constexpr Element kFloats[] = {Element::kF32, Element::kF16, Element::kBF16};

/// An array in GPU memory as Python describes it: address, "float32", shape, strides in elements.
/// DLPack would make the stream wait for another.
using DeviceArray =
    std::tuple<std::uintptr_t, std::string, std::vector<std::int64_t>, std::vector<std::int64_t>>;

/// An array in host memory, or in that of a GPU; the last dimension is contiguous.
struct View {
  std::string name;  // of the argument
  std::byte* data = nullptr;
  Element element = Element::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements
  std::int64_t dim(std::size_t i) const { return shape[i]; }
  std::byte* at(std::int64_t row) const;  // of the first dimension
  bool contiguous() const;
  std::string to_string() const;  // "float32 [2, 64]"
};

/// Throws kUsage unless the array is one of `elements` with `rank` dimensions; ArrayIn and ArrayOut
/// in host memory.
View view(const char* name, const ArrayIn& array, std::initializer_list<Element> elements,
          std::size_t rank);
View view(const char* name, const ArrayOut& array, std::initializer_list<Element> elements,
          std::size_t rank);
View view(const char* name, const DeviceArray& array, std::initializer_list<Element> elements,
          std::size_t rank);
/// Throws kUsage unless the shape is this one; -1 stands for any length.
void want_shape(const View& view, std::initializer_list<std::int64_t> shape);
void want_contiguous(const View& view);

/// Format of weights and rows of this type.
formats::Format format_of(Element element);
/// Throws kUsage listing the formats.
formats::Format format_named(const std::string& name);

/// Rows of a float matrix [n, k] as float32: the array itself, or a copy in the arena.
tensor::ConstMatrixF float_rows(const Compute::Lock& lock, const View& x);
/// Where to compute `out` [n, k]: the array itself, or arena space for finish_rows().
tensor::MatrixF float_out(const Compute::Lock& lock, const View& out);
/// Rounds rows computed in float_out()'s matrix to the type of `out`, when that is another.
void finish_rows(const Compute::Lock& lock, tensor::ConstMatrixF rows, const View& out);

}  // namespace kt::python
