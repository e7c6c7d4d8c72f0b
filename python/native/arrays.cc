#include "arrays.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace kt::python {

namespace nb = nanobind;

namespace {

std::string element_name(Element element) {
  switch (element) {
    case Element::kF32: return "float32";
    case Element::kF16: return "float16";
    case Element::kBF16: return "bfloat16";
    case Element::kU8: return "uint8";
    case Element::kI32: return "int32";
    case Element::kI64: return "int64";
  }
  return {};
}

std::size_t element_bytes(Element element) {
  switch (element) {
    case Element::kF32:
    case Element::kI32: return 4;
    case Element::kF16:
    case Element::kBF16: return 2;
    case Element::kU8: return 1;
    case Element::kI64: return 8;
  }
  return 0;
}

std::optional<Element> element_of(nb::dlpack::dtype type) {
  using Code = nb::dlpack::dtype_code;
  const auto code = static_cast<Code>(type.code);
  if (type.lanes != 1) return std::nullopt;
  if (code == Code::Float && type.bits == 32) return Element::kF32;
  if (code == Code::Float && type.bits == 16) return Element::kF16;
  if (code == Code::Bfloat && type.bits == 16) return Element::kBF16;
  if (code == Code::UInt && type.bits == 8) return Element::kU8;
  if (code == Code::Int && type.bits == 32) return Element::kI32;
  if (code == Code::Int && type.bits == 64) return Element::kI64;
  return std::nullopt;
}

std::optional<Element> element_named(const std::string& name) {
  for (const Element e :
       {Element::kF32, Element::kF16, Element::kBF16, Element::kU8, Element::kI32, Element::kI64}) {
    if (element_name(e) == name) return e;
  }
  return std::nullopt;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t n : shape) {
    text += (text.empty() ? "" : ", ") + (n < 0 ? std::string("any") : std::to_string(n));
  }
  return "[" + text + "]";
}

// What was found out about an array, if it is one of `elements` with `rank` dimensions.
View checked(View v, std::optional<Element> element, std::initializer_list<Element> elements,
             std::size_t rank) {
  if (!element || std::find(elements.begin(), elements.end(), *element) == elements.end()) {
    std::string wanted;
    for (const Element e : elements) wanted += (wanted.empty() ? "" : ", ") + element_name(e);
    fail(ErrorCode::kUsage, v.name, "has elements of {}; wanted: {}",
         element ? element_name(*element) : "another type", wanted);
  }
  v.element = *element;
  if (v.shape.size() != rank) {
    fail(ErrorCode::kUsage, v.name, "has shape {}; {} dimensions are wanted", shape_text(v.shape),
         rank);
  }
  if (rank > 0 && v.strides.back() != 1 && v.shape.back() > 1) {
    fail(ErrorCode::kUsage, v.name, "is strided along its last dimension; make it contiguous");
  }
  return v;
}

template <class Array>
View make_view(const char* name, const Array& array, std::initializer_list<Element> elements,
               std::size_t rank) {
  if (array.device_type() != nb::device::cpu::value) {
    fail(ErrorCode::kUsage, name, "is on a device of type {}; a CPU tensor is wanted",
         array.device_type());
  }
  View v;
  v.name = name;
  v.data = static_cast<std::byte*>(const_cast<void*>(static_cast<const void*>(array.data())));
  for (std::size_t i = 0; i < array.ndim(); ++i) {
    v.shape.push_back(static_cast<std::int64_t>(array.shape(i)));
    v.strides.push_back(array.stride(i));
  }
  return checked(std::move(v), element_of(array.dtype()), elements, rank);
}

std::size_t row_stride_bytes(const View& v) {
  return static_cast<std::size_t>(v.strides[0]) * element_bytes(v.element);
}

}  // namespace

std::byte* View::at(std::int64_t row) const {
  return data + row * strides[0] * static_cast<std::int64_t>(element_bytes(element));
}

bool View::contiguous() const {
  std::int64_t wanted = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] > 1 && strides[i] != wanted) return false;
    wanted *= shape[i];
  }
  return true;
}

std::string View::to_string() const { return element_name(element) + " " + shape_text(shape); }

View view(const char* name, const ArrayIn& array, std::initializer_list<Element> elements,
          std::size_t rank) {
  return make_view(name, array, elements, rank);
}
View view(const char* name, const ArrayOut& array, std::initializer_list<Element> elements,
          std::size_t rank) {
  return make_view(name, array, elements, rank);
}

View view(const char* name, const DeviceArray& array, std::initializer_list<Element> elements,
          std::size_t rank) {
  const auto& [address, element, shape, strides] = array;
  View v;
  v.name = name;
  v.data = reinterpret_cast<std::byte*>(address);
  v.shape = shape;
  v.strides = strides;
  return checked(std::move(v), element_named(element), elements, rank);
}

void want_shape(const View& view, std::initializer_list<std::int64_t> shape) {
  const std::vector<std::int64_t> wanted(shape);
  bool fits = wanted.size() == view.shape.size();
  for (std::size_t i = 0; fits && i < wanted.size(); ++i) {
    fits = wanted[i] < 0 || wanted[i] == view.shape[i];
  }
  if (fits) return;
  fail(ErrorCode::kUsage, view.name, "has shape {}; {} is wanted", shape_text(view.shape),
       shape_text(wanted));
}

void want_contiguous(const View& view) {
  if (view.contiguous()) return;
  fail(ErrorCode::kUsage, view.name, "is {} with gaps; make it contiguous", view.to_string());
}

formats::Format format_of(Element element) {
  if (element == Element::kF16) return formats::Format::kF16;
  if (element == Element::kBF16) return formats::Format::kBF16;
  KT_CHECK(element == Element::kF32);
  return formats::Format::kF32;
}

formats::Format format_named(const std::string& name) {
  const auto format = formats::from_name(name);
  if (format) return *format;
  std::string known;
#define KT_FORMAT(id, name, ...) known += std::string(known.empty() ? "" : ", ") + name;
#include "formats/formats.inc"
#undef KT_FORMAT
  fail(ErrorCode::kUsage, "format", "'{}' is none of {}", name, known);
}

tensor::ConstMatrixF float_rows(const Compute::Lock& lock, const View& x) {
  const std::int64_t n = x.dim(0), k = x.dim(1);
  if (x.element == Element::kF32) {
    return {reinterpret_cast<const float*>(x.data), n, k, x.strides[0]};
  }
  const tensor::MatrixF copy = lock.arena().matrix(n, k);
  const formats::DecodeRow decode = formats::traits(format_of(x.element)).decode;
  lock.cpu().pool.run(n, [&](std::int64_t r, int) {
    decode(x.data + static_cast<std::size_t>(r) * row_stride_bytes(x), copy.row(r), k);
  });
  return copy;
}

tensor::MatrixF float_out(const Compute::Lock& lock, const View& out) {
  if (out.element != Element::kF32) return lock.arena().matrix(out.dim(0), out.dim(1));
  return {reinterpret_cast<float*>(out.data), out.dim(0), out.dim(1), out.strides[0]};
}

void finish_rows(const Compute::Lock& lock, tensor::ConstMatrixF rows, const View& out) {
  if (out.element == Element::kF32) return;
  const formats::EncodeRow encode = formats::traits(format_of(out.element)).encode;
  lock.cpu().pool.run(rows.n_rows, [&](std::int64_t r, int) {
    encode(rows.row(r), nullptr, out.data + static_cast<std::size_t>(r) * row_stride_bytes(out),
           rows.n_cols);
  });
}

}  // namespace kt::python
