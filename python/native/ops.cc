// The ops of ktransformers.ops on arrays: changing formats, packing, products with packed weights,
// and the vector kernels. Outputs are the caller's.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <tuple>

#include "arrays.h"
#include "base/error.h"
#include "module.h"
#include "pack_header.h"
#include "session/choices.h"

namespace kt::python {

namespace nb = nanobind;

namespace {

using backend::PackedMatrix;

PackHeader header_for(const PackedMatrix& matrix) {
  const kernels::dot::Kernel& kernel = matrix.kernel();
  const std::string layout =
      fmt::format("{} {} {} {}", formats::traits(kernel.weight).name, static_cast<int>(kernel.pack),
                  kernel.n_tile, kernel.pack == kernels::dot::Pack::kRows ? "" : kernel.name);
  return make_pack_header(layout, matrix.n(), matrix.k(),
                          static_cast<std::int64_t>(matrix.exponents().size()));
}

std::size_t packed_size(const PackedMatrix& matrix) {
  return sizeof(PackHeader) + matrix.bytes() + matrix.exponents().size();
}

void want_aligned(const View& packed) {
  if (reinterpret_cast<std::uintptr_t>(packed.data) % 64 == 0) return;
  fail(ErrorCode::kUsage, packed.name,
       "begins at an address that is no multiple of 64; clone() the tensor");
}

// Rows of blocks → values per row.
std::int64_t row_values(const View& rows, formats::Format format) {
  const formats::FormatTraits& traits = formats::traits(format);
  const auto block = static_cast<std::int64_t>(traits.block_bytes);
  if (rows.dim(1) < 1 || rows.dim(1) % block != 0) {
    fail(ErrorCode::kUsage, rows.name, "has rows of {} bytes; {} has blocks of {}", rows.dim(1),
         traits.name, traits.block_bytes);
  }
  return rows.dim(1) / block * traits.block_len;
}

void want_blocks(const View& x, std::int64_t k, const formats::FormatTraits& traits) {
  if (k > 0 && k % traits.block_len == 0) return;
  fail(ErrorCode::kUsage, x.name, "has rows of {} values; {} has blocks of {}", k, traits.name,
       traits.block_len);
}

using FormatRow = std::tuple<std::string, std::int64_t, std::int64_t, bool>;
std::vector<FormatRow> list_formats() {
  std::vector<FormatRow> list;
#define KT_FORMAT(id, name, ggml_type, block_len, block_bytes, ...) \
  list.emplace_back(name, block_len, block_bytes,                   \
                    formats::traits(formats::Format::id).encode != nullptr);
#include "formats/formats.inc"
#undef KT_FORMAT
  return list;
}

void quantize(Compute& compute, const ArrayIn& x_in, const std::string& format,
              const ArrayOut& out_in) {
  const formats::FormatTraits& traits = formats::traits(format_named(format));
  const View x = view("x", x_in, {Element::kF32, Element::kF16, Element::kBF16}, 2);
  const std::int64_t k = x.dim(1);
  if (traits.encode == nullptr) fail(ErrorCode::kUnsupported, "format", "{} is read only", format);
  want_blocks(x, k, traits);
  const View out = view("out", out_in, {Element::kU8}, 2);
  want_shape(out, {x.dim(0), static_cast<std::int64_t>(formats::row_bytes(traits.format, k))});
  const nb::gil_scoped_release release;
  const Compute::Lock lock(compute, backend::ActPolicy::kF32);
  const tensor::ConstMatrixF rows = float_rows(lock, x);
  lock.cpu().pool.run(
      rows.n_rows, [&](std::int64_t r, int) { traits.encode(rows.row(r), nullptr, out.at(r), k); });
}

void dequantize(Compute& compute, const ArrayIn& rows_in, const std::string& format,
                const ArrayOut& out_in) {
  const formats::FormatTraits& traits = formats::traits(format_named(format));
  const View rows = view("rows", rows_in, {Element::kU8}, 2);
  const std::int64_t k = row_values(rows, traits.format);
  const View out = view("out", out_in, {Element::kF32}, 2);
  want_shape(out, {rows.dim(0), k});
  const nb::gil_scoped_release release;
  const Compute::Lock lock(compute, backend::ActPolicy::kF32);
  const tensor::MatrixF values = float_out(lock, out);
  lock.cpu().pool.run(rows.dim(0),
                      [&](std::int64_t r, int) { traits.decode(rows.at(r), values.row(r), k); });
}

std::int64_t packed_bytes(Compute& compute, const std::string& format, std::int64_t n,
                          std::int64_t k, const std::string& act) {
  const formats::Format f = format_named(format);
  const backend::ActPolicy policy = session::act_policy(act);
  if (n < 1 || k < 1 || n > (std::int64_t{1} << 40) / k) {
    fail(ErrorCode::kUsage, "weight", "of shape [{}, {}]: both must be at least 1", n, k);
  }
  const nb::gil_scoped_release release;
  const Compute::Lock lock(compute, policy);
  return static_cast<std::int64_t>(packed_size(PackedMatrix(lock.cpu(), f, n, k)));
}

void pack(Compute& compute, const ArrayIn& rows_in, const std::string& format,
          const std::string& act, const ArrayOut& out_in) {
  const formats::Format f = format_named(format);
  const backend::ActPolicy policy = session::act_policy(act);
  const View rows = view("weight", rows_in, {Element::kU8}, 2);
  want_contiguous(rows);
  const std::int64_t n = rows.dim(0), k = row_values(rows, f);
  const View out = view("out", out_in, {Element::kU8}, 1);
  const nb::gil_scoped_release release;
  const Compute::Lock lock(compute, policy);
  PackedMatrix matrix(lock.cpu(), f, n, k);
  want_shape(out, {static_cast<std::int64_t>(packed_size(matrix))});
  want_aligned(out);
  const PackHeader header = header_for(matrix);
  std::memcpy(out.data, &header, sizeof header);
  matrix.place(out.data + sizeof header);
  const std::int64_t tile = matrix.tile_rows();
  lock.cpu().pool.run((n + tile - 1) / tile, [&](std::int64_t t, int) {
    matrix.pack_rows(t * tile, std::min(tile, n - t * tile), rows.at(t * tile));
  });
  const auto exponents = matrix.exponents();
  if (!exponents.empty()) {
    std::memcpy(out.data + sizeof header + matrix.bytes(), exponents.data(), exponents.size());
  }
}

// The matrix that pack() left in `packed`.
PackedMatrix unpack(const backend::Cpu& cpu, const View& packed, formats::Format format,
                    std::int64_t n, std::int64_t k) {
  PackedMatrix matrix(cpu, format, n, k);
  const std::string_view begin(reinterpret_cast<const char*>(packed.data),
                               static_cast<std::size_t>(packed.shape[0]));
  check_pack_header(packed.name, begin, packed.shape[0], header_for(matrix), packed_size(matrix),
                    fmt::format("{} with {}", formats::traits(format).name, matrix.kernel().name));
  want_aligned(packed);
  matrix.place(packed.data + sizeof(PackHeader));
  const auto exponents = matrix.exponents();
  if (!exponents.empty()) {
    std::memcpy(exponents.data(), packed.data + sizeof(PackHeader) + matrix.bytes(),
                exponents.size());
  }
  return matrix;
}

struct LinearArgs {
  View x, packed, out;
  std::optional<View> bias;
  formats::Format format{};
  std::int64_t n = 0;
  backend::ActPolicy act{};
};

void run_linear(Compute& compute, const LinearArgs& a) {
  const Compute::Lock lock(compute, a.act);
  const PackedMatrix matrix = unpack(lock.cpu(), a.packed, a.format, a.n, a.x.dim(1));
  const tensor::MatrixF out = float_out(lock, a.out);
  backend::Activation x(float_rows(lock, a.x));
  std::vector<float> bias;
  if (a.bias) {
    bias.resize(static_cast<std::size_t>(a.n));
    formats::traits(format_of(a.bias->element)).decode(a.bias->data, bias.data(), a.n);
  }
  const backend::GemmCall call = {&matrix, x.rows_for(matrix, lock.cpu(), lock.arena()), out.n_rows,
                                  a.bias ? bias.data() : nullptr, out};
  backend::gemm(lock.cpu(), {&call, 1});
  finish_rows(lock, out, a.out);
}

void linear(Compute& compute, const ArrayIn& x, const ArrayIn& packed,
            const std::optional<ArrayIn>& bias, const std::string& format, std::int64_t n,
            const std::string& act, const ArrayOut& out) {
  LinearArgs a;
  a.x = view("x", x, {Element::kF32, Element::kF16, Element::kBF16}, 2);
  a.packed = view("packed", packed, {Element::kU8}, 1);
  a.out = view("out", out, {a.x.element}, 2);
  if (n < 1) fail(ErrorCode::kUsage, "n", "is {}; the weight's rows are wanted", n);
  a.n = n;
  a.format = format_named(format);
  a.act = session::act_policy(act);
  want_blocks(a.x, a.x.dim(1), formats::traits(a.format));
  want_shape(a.out, {a.x.dim(0), n});
  if (bias) {
    a.bias = view("bias", *bias, {Element::kF32, Element::kF16, Element::kBF16}, 1);
    want_shape(*a.bias, {n});
  }
  const nb::gil_scoped_release release;
  if (a.x.dim(0) > 0) run_linear(compute, a);
}

void rms_norm(Compute& compute, const ArrayIn& x_in, const ArrayIn& weight_in, double eps,
              const ArrayOut& out_in) {
  const View x = view("x", x_in, {Element::kF32, Element::kF16, Element::kBF16}, 2);
  const View weight = view("weight", weight_in, {Element::kF32, Element::kF16, Element::kBF16}, 1);
  const View out = view("out", out_in, {x.element}, 2);
  want_shape(weight, {x.dim(1)});
  want_shape(out, {x.dim(0), x.dim(1)});
  const nb::gil_scoped_release release;
  const Compute::Lock lock(compute, backend::ActPolicy::kF32);
  const tensor::ConstMatrixF rows = float_rows(lock, x);
  const tensor::MatrixF to = float_out(lock, out);
  float* scale = lock.arena().allocate<float>(x.dim(1));
  formats::traits(format_of(weight.element)).decode(weight.data, scale, x.dim(1));
  lock.cpu().pool.run(rows.n_rows, [&](std::int64_t r, int) {
    lock.cpu().elementwise->rms_norm(rows.row(r), scale, static_cast<float>(eps), rows.n_cols,
                                     to.row(r));
  });
  finish_rows(lock, to, out);
}

void silu_mul(Compute& compute, const ArrayIn& gate_in, const ArrayIn& up_in,
              const ArrayOut& out_in) {
  const View gate = view("gate", gate_in, {Element::kF32, Element::kF16, Element::kBF16}, 2);
  const View up = view("up", up_in, {gate.element}, 2);
  const View out = view("out", out_in, {gate.element}, 2);
  want_shape(up, {gate.dim(0), gate.dim(1)});
  want_shape(out, {gate.dim(0), gate.dim(1)});
  const nb::gil_scoped_release release;
  const Compute::Lock lock(compute, backend::ActPolicy::kF32);
  const tensor::ConstMatrixF a = float_rows(lock, gate), b = float_rows(lock, up);
  const tensor::MatrixF to = float_out(lock, out);
  lock.cpu().pool.run(a.n_rows, [&](std::int64_t r, int) {
    lock.cpu().elementwise->silu_mul(a.row(r), b.row(r), a.n_cols, to.row(r));
  });
  finish_rows(lock, to, out);
}

}  // namespace

void add_ops(nb::module_& m) {
  m.def("formats", &list_formats, "(name, values per block, bytes per block, can be written)");
  m.def("quantize", &quantize);
  m.def("dequantize", &dequantize);
  m.def("packed_bytes", &packed_bytes);
  m.def("pack", &pack);
  m.def("linear", &linear, nb::arg("compute"), nb::arg("x"), nb::arg("packed"),
        nb::arg("bias").none(), nb::arg("format"), nb::arg("n"), nb::arg("act"), nb::arg("out"));
  m.def("rms_norm", &rms_norm);
  m.def("silu_mul", &silu_mul);
}

}  // namespace kt::python
