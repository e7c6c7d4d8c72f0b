// The ops of ktransformers.ops on arrays in GPU memory, by the kernels of the GPU plug-in: pointers
// and a stream come in, launches go out. Work memory and results are the caller's; nothing waits
// and nothing is copied, so that a CUDA graph can record an op.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "attention_ops.h"
#include "backend/gpu/gpu.h"
#include "base/error.h"
#include "kernels/cuda/gemm/reference.h"
#include "module.h"
#include "pack_header.h"
#include "session/choices.h"

namespace kt::python {

namespace nb = nanobind;

namespace {

using backend::GpuApi;
namespace cuda = kernels::cuda;

constexpr std::initializer_list<Element> kComputed = {Element::kF32, Element::kBF16};

cuda::Type type_of(const View& v) {
  return v.element == Element::kF32 ? cuda::Type::kF32 : cuda::Type::kBF16;
}

/// An opened plug-in: what can be known without a GPU.
class Plugin {
 public:
  /// The header stands in front of the tiles, which begin at a multiple of this.
  static constexpr std::int64_t kHeaderBytes = 256;

  explicit Plugin(const std::string& folder) : library_(backend::GpuLibrary::find({}, folder)) {
    if (library_ != nullptr) return;
    fail(ErrorCode::kNotFound, backend::GpuLibrary::kFileName,
         "tensors on a GPU need this plug-in, which is not in {}; ./dev gpu-build makes it, {} "
         "names it",
         folder, backend::GpuLibrary::kVariable);
  }
  const std::shared_ptr<const backend::GpuLibrary>& library() const { return library_; }
  const GpuApi& api() const { return library_->api(); }
  std::string path() const { return library_->path(); }

  /// Tiles of a weight [n, k]. Throws kUsage naming the formats that have a kernel.
  std::size_t tile_bytes(formats::Format format, std::int64_t n, std::int64_t k) const {
    const formats::FormatTraits& traits = formats::traits(format);
    if (!api().has_gemm(format)) {
      fail(ErrorCode::kUsage, "format", "{} has no CUDA kernel; these have one: {}", traits.name,
           format_names(&GpuApi::has_gemm));
    }
    if (n < 1 || k < 1 || k % traits.block_len != 0 || n > (std::int64_t{1} << 40) / k) {
      fail(ErrorCode::kUsage, "weight", "of shape [{}, {}]: at least 1, and blocks of {}", n, k,
           traits.block_len);
    }
    return api().packed_bytes(format, n, k);
  }
  std::int64_t packed_bytes(const std::string& name, std::int64_t n, std::int64_t k) const {
    return kHeaderBytes + static_cast<std::int64_t>(tile_bytes(format_named(name), n, k));
  }
  PackHeader header(formats::Format format, std::int64_t n, std::int64_t k) const {
    return make_pack_header(
        fmt::format("cuda {:016x} {}", api().version, formats::traits(format).name), n, k, 0);
  }
  void want_experts(const std::string& name) const {
    const formats::Format format = format_named(name);
    if (api().has_moe(format) && api().has_gemm(format)) return;
    fail(ErrorCode::kUsage, "format", "{} has no CUDA kernel for experts; these have one: {}",
         formats::traits(format).name, format_names(&GpuApi::has_moe));
  }

 private:
  std::string format_names(bool (*GpuApi::*has)(formats::Format)) const {
    std::string names;
#define KT_FORMAT(id, name, ...) \
  if ((api().*has)(formats::Format::id)) names += std::string(names.empty() ? "" : ", ") + name;
#include "formats/formats.inc"
#undef KT_FORMAT
    return names;
  }
  std::shared_ptr<const backend::GpuLibrary> library_;
};

/// Where an op is launched: torch's current stream, and what gives it work memory there.
struct Call {
  cuda::Stream stream = nullptr;
  nb::callable allocate;  // bytes → address, of memory that is kept until the launches are done
  void* memory(std::size_t bytes) const {
    if (bytes == 0) return nullptr;
    return reinterpret_cast<void*>(nb::cast<std::uintptr_t>(allocate(bytes)));
  }
};

/// A GPU, for launches from any thread.
class Device {
 public:
  Device(std::shared_ptr<const Plugin> plugin, int index)
      : plugin_(std::move(plugin)), gpu_(plugin_->library(), index, 0) {}
  const Plugin& plugin() const { return *plugin_; }
  const GpuApi& api() const { return plugin_->api(); }
  const cuda::DeviceInfo& info() const { return gpu_.info(); }
  bool has_blas() const { return gpu_.blas() != nullptr; }
  cuda::BlasLt* blas() const { return gpu_.blas(); }
  std::string name() const { return gpu_.description().name; }

  /// launch() → Status, without Python's lock. Throws what it fails with.
  template <class F>
  void run(const char* what, F&& launch) {
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    gpu_.use();
    gpu_.check(launch(), what);
  }

 private:
  std::shared_ptr<const Plugin> plugin_;
  std::mutex mutex_;  // cuBLASLt belongs to one thread at a time
  backend::Gpu gpu_;
};

Call call_on(std::uintptr_t stream, const nb::callable& allocate) {
  return {reinterpret_cast<cuda::Stream>(stream), allocate};
}

std::int64_t values_of(const View& rows, const formats::FormatTraits& traits) {
  const auto block = static_cast<std::int64_t>(traits.block_bytes);
  if (rows.dim(1) < 1 || rows.dim(1) % block != 0) {
    fail(ErrorCode::kUsage, rows.name, "has rows of {} bytes; {} has blocks of {}", rows.dim(1),
         traits.name, traits.block_bytes);
  }
  return rows.dim(1) / block * traits.block_len;
}

/// Rows of a format to tiles, without a header. Products read tiles before the launch ahead of them
/// is over, where that is a kernel: a fill of other memory comes between, which waits for the tiles
/// and is waited for, in recorded graphs too.
void pack(Device& device, std::uintptr_t stream, const nb::callable& allocate,
          const DeviceArray& rows_in, const std::string& format, const DeviceArray& out_in) {
  const Call call = call_on(stream, allocate);
  const formats::Format f = format_named(format);
  const View rows = view("weight", rows_in, {Element::kU8}, 2);
  const View out = view("out", out_in, {Element::kU8}, 1);
  want_contiguous(rows);
  const std::int64_t k = values_of(rows, formats::traits(f));
  want_shape(out, {static_cast<std::int64_t>(device.plugin().tile_bytes(f, rows.dim(0), k))});
  constexpr std::size_t kFilled = 4;
  void* between = call.memory(kFilled);
  device.run("pack", [&] {
    const GpuApi& api = device.api();
    const cuda::Status status = api.pack(f, rows.data, rows.dim(0), k, out.data, call.stream);
    return status == cuda::Status::kOk ? api.fill(between, 0, kFilled, call.stream) : status;
  });
}

void dequantize(Device& device, std::uintptr_t stream, const nb::callable& allocate,
                const DeviceArray& rows_in, const std::string& format, const DeviceArray& out_in) {
  const Call call = call_on(stream, allocate);
  const formats::Format f = format_named(format);
  const View rows = view("rows", rows_in, {Element::kU8}, 2);
  const View out = view("out", out_in, {Element::kF32}, 2);
  want_contiguous(rows);
  want_contiguous(out);
  const std::int64_t n = rows.dim(0), k = values_of(rows, formats::traits(f));
  want_shape(out, {n, k});
  if (n == 0) return;
  void* tiles = call.memory(device.plugin().tile_bytes(f, n, k));
  device.run("dequantize", [&] {
    const cuda::Status status = device.api().pack(f, rows.data, n, k, tiles, call.stream);
    if (status != cuda::Status::kOk) return status;
    return device.api().unpack({{f, tiles, n, k}, 0, n, out.data, cuda::Type::kF32}, call.stream);
  });
}

/// x times a packed weight whose header Python knows: it would take a wait to read it here.
struct LinearArgs {
  View x, packed, out;
  std::optional<View> bias;
  formats::Format format{};
  bool exact = false;  // f32 throughout: the slow twin
};

cuda::GemmArgs product(const LinearArgs& a) {
  cuda::GemmArgs g;
  g.w = {a.format, a.packed.data + Plugin::kHeaderBytes, a.out.dim(1), a.x.dim(1)};
  g.x = a.x.data;
  g.x_type = type_of(a.x);
  g.x_stride = a.x.dim(0) > 1 ? a.x.strides[0] : a.x.dim(1);
  g.m = a.x.dim(0);
  g.y = a.out.data;
  g.y_type = type_of(a.out);
  g.y_stride = a.out.dim(1);
  g.bias = a.bias ? reinterpret_cast<const float*>(a.bias->data) : nullptr;
  return g;
}

/// Whether cuBLASLt can multiply: it is asked for algorithms for aligned operands.
bool fits_blas(const cuda::GemmArgs& g) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 256 == 0; };
  return aligned(g.x) && aligned(g.y) && g.x_stride % 8 == 0 && g.w.k % 8 == 0 && g.w.n % 8 == 0;
}

void run_linear(Device& device, const Call& call, const LinearArgs& a) {
  cuda::GemmArgs g = product(a);
  const GpuApi& api = device.api();
  const std::int64_t m = g.m;
  const bool whole = a.exact || m <= cuda::kDirectRows || (device.has_blas() && fits_blas(g));
  const std::int64_t step = whole ? m : cuda::kDirectRows;
  g.workspace_bytes = a.exact ? cuda::reference_slab_bytes(g.w)
                              : api.gemm_workspace(g.w, std::min(step, m), device.info());
  g.workspace = call.memory(g.workspace_bytes);
  device.run("linear", [&] {
    cuda::Status status = cuda::Status::kOk;
    for (std::int64_t row = 0; row < m && status == cuda::Status::kOk; row += step) {
      g.m = std::min(step, m - row);
      g.x = a.x.at(row);
      g.y = a.out.at(row);
      status = a.exact ? api.gemm_reference(g, call.stream)
                       : api.gemm(g, device.info(), device.blas(), call.stream);
    }
    return status;
  });
}

void linear(Device& device, std::uintptr_t stream, const nb::callable& allocate,
            const DeviceArray& x, const DeviceArray& packed, const nb::bytes& header,
            const std::optional<DeviceArray>& bias, const std::string& format,
            const std::string& act, const DeviceArray& out) {
  LinearArgs a;
  a.exact = session::act_policy(act) == backend::ActPolicy::kF32;
  if (a.exact) a.x = view("x", x, {Element::kF32, Element::kBF16}, 2);
  if (!a.exact) a.x = view("x", x, {Element::kBF16}, 2);
  a.packed = view("packed", packed, {Element::kU8}, 1);
  a.out = view("out", out, kComputed, 2);
  a.format = format_named(format);
  want_shape(a.out, {a.x.dim(0), -1});
  want_contiguous(a.out);
  const std::int64_t n = a.out.dim(1), k = a.x.dim(1);
  const std::size_t tiles = device.plugin().tile_bytes(a.format, n, k);
  check_pack_header("packed", std::string_view(header.c_str(), header.size()), a.packed.dim(0),
                    device.plugin().header(a.format, n, k), tiles + Plugin::kHeaderBytes,
                    fmt::format("{} on this GPU", formats::traits(a.format).name));
  if (bias) {
    a.bias = view("bias", *bias, {Element::kF32}, 1);
    want_shape(*a.bias, {n});
  }
  if (a.x.dim(0) > 0) run_linear(device, call_on(stream, allocate), a);
}

struct ExpertTiles {
  std::string format;
  std::int64_t n_experts = 0, d_model = 0, d_ff = 0;
  DeviceArray gate, up, down;
};

void moe(Device& device, std::uintptr_t stream, const nb::callable& allocate, const DeviceArray& x,
         const DeviceArray& ids, const DeviceArray& weights, const ExpertTiles& experts,
         const DeviceArray& out) {
  const View rows = view("x", x, {Element::kBF16}, 2),
             chosen = view("ids", ids, {Element::kI32}, 2);
  const View factors = view("weights", weights, {Element::kF32}, 2);
  const View sums = view("out", out, kComputed, 2);
  const std::int64_t m = rows.dim(0);
  want_shape(rows, {-1, experts.d_model});
  want_shape(chosen, {m, -1});
  want_shape(factors, {m, chosen.dim(1)});
  want_shape(sums, {m, experts.d_model});
  for (const View* v : {&chosen, &factors, &sums}) want_contiguous(*v);
  const formats::Format format = format_named(experts.format);
  const auto tiles = [&](const char* name, const DeviceArray& array, std::int64_t n,
                         std::int64_t k) {
    const View v = view(name, array, {Element::kU8}, 1);
    const std::size_t one = device.plugin().tile_bytes(format, n, k);
    want_shape(v, {experts.n_experts * static_cast<std::int64_t>(one)});
    return cuda::ExpertMatrices{format, v.data};
  };
  cuda::MoeArgs a;
  a.gate = tiles("gate", experts.gate, experts.d_ff, experts.d_model);
  a.up = tiles("up", experts.up, experts.d_ff, experts.d_model);
  a.down = tiles("down", experts.down, experts.d_model, experts.d_ff);
  a.n_experts = experts.n_experts;
  a.d_model = experts.d_model;
  a.d_ff = experts.d_ff;
  a.x = rows.data;
  a.x_stride = m > 1 ? rows.strides[0] : experts.d_model;
  a.m = m;
  a.n_active = chosen.dim(1);
  a.ids = reinterpret_cast<const std::int32_t*>(chosen.data);
  a.weights = reinterpret_cast<const float*>(factors.data);
  a.y = sums.data;
  a.y_type = type_of(sums);
  a.y_stride = experts.d_model;
  const Call call = call_on(stream, allocate);
  a.workspace_bytes = device.api().moe_workspace(a);
  a.workspace = call.memory(a.workspace_bytes);
  device.run("moe", [&] { return device.api().moe(a, call.stream); });
}

cuda::KvCache cache_of(const View& cache) {
  const auto multiple = [&](std::size_t i) {
    return cache.dim(i) == 1 || cache.strides[i] % 8 == 0;
  };
  if (reinterpret_cast<std::uintptr_t>(cache.data) % 16 != 0 || !multiple(1) || !multiple(2)) {
    fail(ErrorCode::kUsage, cache.name,
         "has heads that begin at addresses that are no multiples of 16, as a GPU wants them");
  }
  return {cache.data, cache.strides[1], cache.dim(2) == 1 ? cache.dim(3) : cache.strides[2]};
}

/// The kernels for keys of 576 values read values from the keys.
void want_values_in_keys(const View& k, const View& v) {
  constexpr std::int64_t kLatentKeys = 576;
  if (k.dim(3) != kLatentKeys) return;
  if (k.dim(2) == 1 && v.data == k.data && v.strides[1] == k.strides[1]) return;
  fail(ErrorCode::kUsage, v.name,
       "keys of {} values have a CUDA kernel only where one head of values is the beginning of "
       "the keys",
       kLatentKeys);
}

/// items: a SequenceItem of each sequence in GPU memory; most_rows: of one of them at most.
void attention(Device& device, std::uintptr_t stream, const nb::callable& allocate,
               const DeviceArray& q_in, const DeviceArray& k_in, const DeviceArray& v_in,
               const DeviceArray& table_in, const DeviceArray& items_in, std::int64_t most_rows,
               double scale, std::int64_t window, const DeviceArray& out_in) {
  const View q = view("q", q_in, {Element::kBF16}, 3);
  const View k = view("k_cache", k_in, {Element::kBF16}, 4);
  const View v = view("v_cache", v_in, {Element::kBF16}, 4);
  const View table = view("block_table", table_in, {Element::kI32}, 2);
  const View items = view("items", items_in, {Element::kI32}, 2);
  const View out = view("out", out_in, kComputed, 3);
  check_caches(q, k, v, true);
  want_values_in_keys(k, v);
  static_assert(sizeof(cuda::SequenceItem) == 4 * sizeof(std::int32_t));
  want_shape(items, {table.dim(0), 4});
  want_shape(out, {q.dim(0), q.dim(1), v.dim(3)});
  for (const View* x : {&q, &items, &out}) want_contiguous(*x);
  if (window < 0) fail(ErrorCode::kUsage, "window", "is {}; 0 (none) or more is wanted", window);
  constexpr std::int64_t kMost = 65535;  // of a launch
  if (table.dim(0) < 1 || table.dim(0) > kMost || table.dim(1) < 1) {
    fail(ErrorCode::kUsage, table.name,
         "is {}; 1 to {} sequences of at least one page are possible", table.to_string(), kMost);
  }
  cuda::AttentionArgs a;
  a.q = q.data;
  a.q_token_stride = q.dim(1) * q.dim(2);
  a.q_head_stride = q.dim(2);
  a.k = cache_of(k);
  a.v = cache_of(v);
  a.table = {reinterpret_cast<const std::int32_t*>(table.data),
             table.dim(0) > 1 ? table.strides[0] : table.dim(1)};
  a.items = reinterpret_cast<const cuda::SequenceItem*>(items.data);
  a.n_items = table.dim(0);
  a.n_rows = q.dim(0);
  a.max_item_rows = most_rows;
  a.max_keys = table.dim(1) * cuda::kPageLen;
  a.n_heads = q.dim(1);
  a.n_kv_heads = k.dim(2);
  a.dim_qk = q.dim(2);
  a.dim_v = v.dim(3);
  a.scale = static_cast<float>(scale);
  a.window = window;
  a.out = out.data;
  a.out_type = type_of(out);
  const GpuApi& api = device.api();
  const bool fast = api.has_attention(a.dim_qk, a.dim_v);  // others have the slow twin
  a.split_keys = api.attention_split_keys(a, device.info());
  const Call call = call_on(stream, allocate);
  a.workspace_bytes = fast ? api.attention_workspace(a) : api.attention_reference_workspace(a);
  a.workspace = call.memory(a.workspace_bytes);
  device.run("attention", [&] {
    return fast ? api.attention(a, call.stream) : api.attention_reference(a, call.stream);
  });
}

void rms_norm(Device& device, std::uintptr_t stream, const nb::callable& allocate,
              const DeviceArray& x_in, const DeviceArray& weight_in, double eps,
              const DeviceArray& out_in) {
  const View x = view("x", x_in, kComputed, 2),
             weight = view("weight", weight_in, {Element::kF32}, 1);
  const View out = view("out", out_in, kComputed, 2);
  want_shape(weight, {x.dim(1)});
  want_shape(out, {x.dim(0), x.dim(1)});
  want_contiguous(out);
  cuda::NormArgs a;
  a.residual = x.data;  // read only, as there is no delta
  a.residual_type = type_of(x);
  a.residual_stride = x.dim(0) > 1 ? x.strides[0] : x.dim(1);
  a.weight = reinterpret_cast<const float*>(weight.data);
  a.out = out.data;
  a.out_type = type_of(out);
  a.out_stride = x.dim(1);
  a.m = x.dim(0);
  a.d = x.dim(1);
  a.eps = static_cast<float>(eps);
  const Call call = call_on(stream, allocate);
  device.run("rms_norm", [&] { return device.api().add_rms_norm(a, call.stream); });
}

void silu_mul(Device& device, std::uintptr_t stream, const nb::callable& allocate,
              const DeviceArray& gate_in, const DeviceArray& up_in, const DeviceArray& out_in) {
  const View gate = view("gate", gate_in, kComputed, 2), up = view("up", up_in, {gate.element}, 2);
  const View out = view("out", out_in, kComputed, 2);
  want_shape(up, {gate.dim(0), gate.dim(1)});
  want_shape(out, {gate.dim(0), gate.dim(1)});
  want_contiguous(out);
  if (gate.dim(0) > 1 && gate.strides[0] != up.strides[0])
    fail(ErrorCode::kUsage, up.name, "has another stride than gate");
  cuda::SiluArgs a;
  a.gate = gate.data;
  a.up = up.data;
  a.type = type_of(gate);
  a.stride = gate.dim(0) > 1 ? gate.strides[0] : gate.dim(1);
  a.out = out.data;
  a.out_type = type_of(out);
  a.m = gate.dim(0);
  a.d = gate.dim(1);
  const Call call = call_on(stream, allocate);
  device.run("silu_mul", [&] { return device.api().silu_mul(a, call.stream); });
}

nb::bytes header_bytes(const Plugin& plugin, const std::string& format, std::int64_t n,
                       std::int64_t k) {
  const PackHeader header = plugin.header(format_named(format), n, k);
  return nb::bytes(&header, sizeof header);
}

}  // namespace

void add_cuda_ops(nb::module_& m) {
  nb::class_<Plugin>(m, "GpuPlugin", "The GPU plug-in; see ktransformers.cuda_ops.")
      .def(nb::init<const std::string&>(), nb::arg("folder"))
      .def_prop_ro("path", &Plugin::path)
      .def_ro_static("HEADER_BYTES", &Plugin::kHeaderBytes)
      .def("packed_bytes", &Plugin::packed_bytes, nb::arg("format"), nb::arg("n"), nb::arg("k"))
      .def("header", &header_bytes, nb::arg("format"), nb::arg("n"), nb::arg("k"))
      .def("want_experts", &Plugin::want_experts, nb::arg("format"));
  nb::class_<ExpertTiles>(m, "ExpertTiles", "Experts of a layer in GPU memory.")
      .def(nb::init<std::string, std::int64_t, std::int64_t, std::int64_t, DeviceArray, DeviceArray,
                    DeviceArray>(),
           nb::arg("format"), nb::arg("n_experts"), nb::arg("d_model"), nb::arg("d_ff"),
           nb::arg("gate"), nb::arg("up"), nb::arg("down"));
  m.attr("DIRECT_ROWS") = cuda::kDirectRows;
  nb::class_<Device>(m, "CudaDevice", "A GPU, for launches on streams of torch.")
      .def(nb::init<std::shared_ptr<const Plugin>, int>(), nb::arg("plugin"), nb::arg("index"))
      .def_prop_ro("name", &Device::name)
      .def_prop_ro("has_blas", &Device::has_blas, "Whether cuBLASLt was found.")
      .def("pack", &pack)
      .def("dequantize", &dequantize)
      .def("linear", &linear, nb::arg("stream"), nb::arg("allocate"), nb::arg("x"),
           nb::arg("packed"), nb::arg("header"), nb::arg("bias").none(), nb::arg("format"),
           nb::arg("act"), nb::arg("out"))
      .def("moe", &moe)
      .def("attention", &attention)
      .def("rms_norm", &rms_norm)
      .def("silu_mul", &silu_mul);
}

}  // namespace kt::python
