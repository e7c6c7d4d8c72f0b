// ktransformers._native.ExpertLayer: the routed experts of one layer, loaded from the caller's
// tensors or from a checkpoint's files, and run on the caller's rows.
#include "session/expert_layer.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>

#include "arrays.h"
#include "base/error.h"
#include "io/expert_files.h"
#include "io/memory_source.h"
#include "module.h"
#include "session/choices.h"

namespace kt::python {

namespace nb = nanobind;

namespace {

/// What a layer is, as Python says it.
struct LayerSpec {
  std::int64_t n_active = 0;
  std::int64_t d_model = 0;
  std::int64_t d_ff = 0;
  std::vector<std::int64_t> logical;  // expert of the weights for each expert of the layer
  std::string backend = "llamafile";
  std::string act = "q16";
  double swiglu_limit = 0.0;

  io::MoeConfig moe() const {
    const auto n_experts = static_cast<std::int64_t>(logical.size());
    if (n_experts < 1 || n_experts > (1 << 20))
      fail(ErrorCode::kUsage, "num_experts", "is {}; 1 to {} are possible", n_experts, 1 << 20);
    for (const auto& [name, n] : {std::pair{"hidden_size", d_model},
                                  {"moe_intermediate_size", d_ff},
                                  {"num_experts_per_tok", n_active}}) {
      if (n < 1 || n > (1 << 24)) {
        fail(ErrorCode::kUsage, name, "is {}; 1 to {} are possible", n, 1 << 24);
      }
    }
    for (const std::int64_t e : logical) {
      if (e < 0) fail(ErrorCode::kUsage, "map", "names expert {}; 0 or more is wanted", e);
    }
    io::MoeConfig moe;
    moe.n_experts = n_experts;
    moe.n_active = n_active;
    moe.d_ff = d_ff;
    moe.swiglu_limit = swiglu_limit;
    return moe;
  }
};

/// A layer and the threads that it was loaded for.
class Layer {
 public:
  Layer(std::shared_ptr<Compute> compute, const io::WeightSource& source, const LayerSpec& spec)
      : compute_(std::move(compute)), act_(session::act_policy(spec.act)) {
    const Compute::Lock lock(*compute_, act_);
    layer_ = std::make_unique<session::ExpertLayer>(lock.cpu(), source, spec.backend);
  }
  const io::ModelConfig& config() const { return layer_->config(); }
  const operators::Experts& experts() const { return layer_->experts(); }

  struct Call {
    View x, ids, weights, out;
    std::optional<View> mask, add;
    std::int64_t chunk = 0;
    bool strict = false;
  };
  void check(const Call& c) const;
  void forward(const Call& c);

 private:
  std::int32_t id(const Call& c, std::int64_t row, std::int64_t i) const;
  void forward_rows(const Call& c, std::int64_t row, std::int64_t n);
  std::shared_ptr<Compute> compute_;
  backend::ActPolicy act_;
  std::unique_ptr<session::ExpertLayer> layer_;
};

View rows_of(const View& v, std::int64_t row, std::int64_t n) {
  View part = v;
  part.data = v.at(row);
  part.shape[0] = n;
  return part;
}

std::int64_t stored_id(const View& ids, std::int64_t row, std::int64_t i) {
  const std::byte* at = ids.at(row);
  return ids.element == Element::kI32 ? reinterpret_cast<const std::int32_t*>(at)[i]
                                      : reinterpret_cast<const std::int64_t*>(at)[i];
}

void Layer::check(const Call& c) const {
  const std::int64_t n = c.x.dim(0), n_experts = config().moe.n_experts;
  want_shape(c.x, {-1, config().d_model});
  want_shape(c.out, {n, config().d_model});
  want_shape(c.ids, {n, -1});
  want_shape(c.weights, {n, c.ids.dim(1)});
  if (c.mask) want_shape(*c.mask, {n_experts});
  if (c.add) want_shape(*c.add, {n, config().d_model});
  if (c.chunk < 1) fail(ErrorCode::kUsage, "chunk", "is {}; at least 1 row is wanted", c.chunk);
  for (std::int64_t r = 0; c.strict && r < n; ++r) {
    for (std::int64_t i = 0; i < c.ids.dim(1); ++i) {
      const std::int64_t e = stored_id(c.ids, r, i);
      if (e < n_experts) continue;
      fail(ErrorCode::kUsage, c.ids.name, "names expert {} in row {}; there are {}", e, r,
           n_experts);
    }
  }
}

// -1: left out.
std::int32_t Layer::id(const Call& c, std::int64_t row, std::int64_t i) const {
  const std::int64_t e = stored_id(c.ids, row, i);
  if (e < 0 || e >= config().moe.n_experts) return -1;
  if (c.mask && c.mask->data[e] != std::byte{0}) return -1;
  return static_cast<std::int32_t>(e);
}

void Layer::forward(const Call& c) {
  for (std::int64_t row = 0; row < c.x.dim(0); row += c.chunk) {
    forward_rows(c, row, std::min(c.chunk, c.x.dim(0) - row));
  }
}

void Layer::forward_rows(const Call& c, std::int64_t row, std::int64_t n) {
  const Compute::Lock lock(*compute_, act_);
  const std::int64_t n_active = c.ids.dim(1);
  operators::Routing routing;
  routing.n_active = n_active;
  routing.ids = lock.arena().allocate<std::int32_t>(n * n_active);
  routing.weights = lock.arena().allocate<float>(n * n_active);
  for (std::int64_t r = 0; r < n; ++r) {
    const auto* weights = reinterpret_cast<const float*>(c.weights.at(row + r));
    std::int32_t* ids = routing.ids + r * n_active;
    float* factors = routing.weights + r * n_active;
    for (std::int64_t i = 0; i < n_active; ++i) {
      ids[i] = id(c, row + r, i);
      factors[i] = weights[i];
      // Routers choose an expert once, and operators rely on it.
      const auto before = std::find(ids, ids + i, ids[i]) - ids;
      if (ids[i] < 0 || before == i) continue;
      factors[before] += weights[i];
      ids[i] = -1;
    }
  }
  const View out_rows = rows_of(c.out, row, n);
  const tensor::MatrixF out = float_out(lock, out_rows);
  layer_->run(lock.cpu(), lock.arena(), float_rows(lock, rows_of(c.x, row, n)), routing, out);
  for (std::int64_t r = 0; c.add && r < n; ++r) {
    lock.cpu().elementwise->add(reinterpret_cast<const float*>(c.add->at(row + r)), out.n_cols,
                                out.row(r));
  }
  finish_rows(lock, out, out_rows);
}

// A projection of all experts, [n_experts, n, k] of floats or [n_experts, n, row bytes].
class Stack {
 public:
  Stack(const char* name, const ArrayIn& array, const std::string& format)
      : view_(view(name, array, {Element::kF32, Element::kF16, Element::kBF16, Element::kU8}, 3)) {
    want_contiguous(view_);
    const bool rows = view_.element == Element::kU8;
    if (rows == format.empty()) {
      fail(ErrorCode::kUsage, name, "is {}; {}", view_.to_string(),
           rows ? "rows of bytes need a format" : "floats have their own format");
    }
    format_ = rows ? format_named(format) : format_of(view_.element);
  }
  std::int64_t n_experts() const { return view_.dim(0); }
  /// Expert `e` as a matrix [n, k].
  tensor::WeightView expert(std::int64_t e, std::int64_t n, std::int64_t k) const {
    const formats::FormatTraits& traits = formats::traits(format_);
    const bool rows = view_.element == Element::kU8;
    if (k % traits.block_len != 0) {
      fail(ErrorCode::kUsage, view_.name, "has rows of {} values; {} has blocks of {}", k,
           traits.name, traits.block_len);
    }
    want_shape(view_,
               {-1, n, rows ? static_cast<std::int64_t>(formats::row_bytes(format_, k)) : k});
    if (e >= n_experts()) {
      fail(ErrorCode::kUsage, view_.name, "has {} experts; expert {} is asked for", n_experts(), e);
    }
    const std::size_t bytes = formats::row_bytes(format_, k) * static_cast<std::size_t>(n);
    return {format_, {n, k}, view_.data + static_cast<std::size_t>(e) * bytes};
  }

 private:
  View view_;
  formats::Format format_{};
};

std::unique_ptr<Layer> from_arrays(std::shared_ptr<Compute> compute, const LayerSpec& spec,
                                   const ArrayIn& gate, const ArrayIn& up, const ArrayIn& down,
                                   const std::string& format) {
  const Stack stacks[] = {{"gate", gate, format}, {"up", up, format}, {"down", down, format}};
  io::MemorySource source("tensors", io::expert_config(spec.moe(), spec.d_model));
  const char* names[] = {"gate_proj", "up_proj", "down_proj"};
  for (std::size_t e = 0; e < spec.logical.size(); ++e) {
    for (std::size_t p = 0; p < 3; ++p) {
      const bool is_down = p == 2;
      source.add(fmt::format("experts.{}.{}.weight", e, names[p]),
                 stacks[p].expert(spec.logical[e], is_down ? spec.d_model : spec.d_ff,
                                  is_down ? spec.d_ff : spec.d_model));
    }
  }
  const nb::gil_scoped_release release;
  return std::make_unique<Layer>(std::move(compute), source, spec);
}

io::QuantConfig quant_config(const std::string& method) {
  io::QuantConfig quant;
  if (method == "gptq") quant.method = io::QuantMethod::kGptq;
  if (method == "compressed-tensors") quant.method = io::QuantMethod::kCompressedTensors;
  if (method == "mxfp4") quant.method = io::QuantMethod::kMxfp4;
  if (method == "gptq" || method == "compressed-tensors") quant.bits = 4;
  if (method == "fp8") quant.method = io::QuantMethod::kFp8;
  if (method == "fp8") quant.block_n = quant.block_k = 128;
  return quant;
}

std::unique_ptr<Layer> from_files(std::shared_ptr<Compute> compute, const LayerSpec& spec,
                                  const io::ExpertFiles& files, std::int64_t layer,
                                  const std::string& quant) {
  const io::ExpertSelection wanted = {layer, spec.moe(), spec.d_model, quant_config(quant),
                                      spec.logical};
  const nb::gil_scoped_release release;
  const std::unique_ptr<io::WeightSource> source = files.layer(wanted);
  return std::make_unique<Layer>(std::move(compute), *source, spec);
}

void forward(Layer& layer, const ArrayIn& x, const ArrayIn& ids, const ArrayIn& weights,
             const ArrayOut& out, const std::optional<ArrayIn>& mask,
             const std::optional<ArrayIn>& add, std::int64_t chunk, bool strict) {
  Layer::Call c;
  c.x = view("x", x, {Element::kF32, Element::kF16, Element::kBF16}, 2);
  c.ids = view("ids", ids, {Element::kI32, Element::kI64}, 2);
  c.weights = view("weights", weights, {Element::kF32}, 2);
  c.out = view("out", out, {Element::kF32, Element::kF16, Element::kBF16}, 2);
  if (mask) c.mask = view("mask", *mask, {Element::kU8}, 1);
  if (add) c.add = view("add", *add, {Element::kF32}, 2);
  c.chunk = chunk;
  c.strict = strict;
  layer.check(c);
  const nb::gil_scoped_release release;
  layer.forward(c);
}

}  // namespace

void add_expert_layer(nb::module_& m) {
  nb::class_<io::ExpertFiles>(m, "ExpertFiles", "A checkpoint opened for its routed experts.")
      .def(nb::init<const std::string&>(), nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("is_gguf", &io::ExpertFiles::is_gguf);
  nb::class_<LayerSpec>(m, "ExpertSpec")
      .def(nb::init<>())
      .def_rw("n_active", &LayerSpec::n_active)
      .def_rw("d_model", &LayerSpec::d_model)
      .def_rw("d_ff", &LayerSpec::d_ff)
      .def_rw("logical", &LayerSpec::logical)
      .def_rw("backend", &LayerSpec::backend)
      .def_rw("act", &LayerSpec::act)
      .def_rw("swiglu_limit", &LayerSpec::swiglu_limit);
  nb::class_<Layer>(m, "ExpertLayer", "Routed experts of a layer; see ktransformers.ops.Experts.")
      .def_static("from_arrays", &from_arrays)
      .def_static("from_files", &from_files)
      .def("forward", &forward, nb::arg("x"), nb::arg("ids"), nb::arg("weights"), nb::arg("out"),
           nb::arg("mask").none(), nb::arg("add").none(), nb::arg("chunk"), nb::arg("strict"))
      .def_prop_ro("n_experts", [](const Layer& l) { return l.config().moe.n_experts; })
      .def_prop_ro("d_model", [](const Layer& l) { return l.config().d_model; })
      .def_prop_ro("d_ff", [](const Layer& l) { return l.config().moe.d_ff; })
      .def_prop_ro("bytes", [](const Layer& l) { return l.experts().weight_bytes(); })
      .def_prop_ro("format", [](const Layer& l) { return l.experts().weight_format(); })
      .def_prop_ro("kernel", [](const Layer& l) { return l.experts().kernel_name(); });
}

}  // namespace kt::python
