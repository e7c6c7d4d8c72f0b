#include "operators/plugin.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/utf8.h"
#include "operators/builder.h"
#include "operators/parallel.h"
#include "operators/plugin_library.h"

namespace kt::operators {
namespace {

constexpr std::size_t kErrorSize = 512;

// A plug-in's error text, made one line that is fit for a terminal.
std::string one_line(const char (&error)[kErrorSize]) {
  std::string text(error, ::strnlen(error, kErrorSize));
  for (char& c : text) {
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
  }
  return text.empty() ? "it gave no reason" : printable(text);
}

void put_error(const char* text, char* error, std::size_t error_size) noexcept {
  if (error == nullptr || error_size == 0) return;
  const std::size_t n = std::min(std::strlen(text), error_size - 1);
  std::memcpy(error, text, n);
  error[n] = '\0';
}

// ---- the module's tensors, as a plug-in sees them while it loads

class Reader {
 public:
  // `weights` may be read, and everything below `path`.
  Reader(Loader& loader, std::string path, const std::vector<WeightSpec>& weights)
      : loader_(loader), prefix_(std::move(path) + ".") {
    for (const WeightSpec& spec : weights) names_.push_back(spec.name);
  }

  kt_reader table() {
    kt_reader reader{};
    reader.size = sizeof reader;
    reader.host = this;
    reader.find = [](void* host, const char* name, kt_tensor* tensor) noexcept -> std::int32_t {
      return static_cast<Reader*>(host)->find(name, tensor) ? 0 : 1;
    };
    reader.read_floats = [](void* host, const char* name, std::int64_t row, std::int64_t n_rows,
                            float* out, char* error, std::size_t error_size) noexcept {
      return static_cast<Reader*>(host)->read(
          name, row, n_rows, error, error_size,
          [&](Reader& self, const io::TensorInfo& info) { self.decode(info, row, n_rows, out); });
    };
    reader.read_blocks = [](void* host, const char* name, std::int64_t row, std::int64_t n_rows,
                            void* out, char* error, std::size_t error_size) noexcept {
      return static_cast<Reader*>(host)->read(
          name, row, n_rows, error, error_size, [&](Reader& self, const io::TensorInfo& info) {
            self.loader_.source().read_rows(info, row, n_rows, static_cast<std::byte*>(out));
          });
    };
    return reader;
  }

  // Counts what was looked at as done; throws when one of the module's tensors was not.
  void finish(const std::string& path, const std::string& class_path) {
    for (const std::string& name : names_) {
      if (touched_.contains(name)) continue;
      fail(ErrorCode::kMismatch, path, "operator {} did not read the module's tensor '{}'",
           class_path, name);
    }
    for (const auto& [name, info] : touched_) loader_.finished(*info);
  }

 private:
  const io::TensorInfo* lookup(const char* name) {
    if (name == nullptr) return nullptr;
    const std::string key(name);
    if (!key.starts_with(prefix_) && std::find(names_.begin(), names_.end(), key) == names_.end())
      return nullptr;
    const io::TensorInfo* info = loader_.source().find(key);
    if (info != nullptr) touched_[key] = info;
    return info;
  }

  bool find(const char* name, kt_tensor* tensor) noexcept {
    try {
      const io::TensorInfo* info = lookup(name);
      if (info == nullptr || tensor == nullptr) return false;
      kt_tensor found{};
      found.size = std::min(tensor->size, sizeof found);
      found.n_rows = info->shape.n_rows();
      found.n_cols = info->shape.n_cols();
      found.row_bytes = formats::row_bytes(info->format, found.n_cols);
      found.format =
          format_names_.try_emplace(info, formats::traits(info->format).name).first->second.c_str();
      std::memcpy(tensor, &found, found.size);
      return true;
    } catch (...) {
      return false;
    }
  }

  template <class F>
  std::int32_t read(const char* name, std::int64_t row, std::int64_t n_rows, char* error,
                    std::size_t error_size, F&& copy) noexcept {
    try {
      const io::TensorInfo* info = lookup(name);
      if (info == nullptr) {
        fail(ErrorCode::kNotFound, {}, "there is no tensor '{}' below '{}'",
             name == nullptr ? "" : name, prefix_.substr(0, prefix_.size() - 1));
      }
      const std::int64_t all = info->shape.n_rows();
      if (row < 0 || n_rows < 0 || row > all || n_rows > all - row) {
        fail(ErrorCode::kUsage, {}, "rows {} to {} of '{}' were asked for, which has {}", row,
             row + n_rows, info->name, all);
      }
      copy(*this, *info);
      return 0;
    } catch (const std::exception& e) {
      put_error(e.what(), error, error_size);
    } catch (...) {
      put_error("unknown error", error, error_size);
    }
    return 1;
  }

  void decode(const io::TensorInfo& info, std::int64_t row, std::int64_t n_rows, float* out) {
    const std::int64_t n = info.shape.n_cols();
    row_.resize(formats::row_bytes(info.format, n));
    for (std::int64_t r = 0; r < n_rows; ++r) {
      loader_.source().read_rows(info, row + r, 1, row_.data());
      formats::traits(info.format).decode(row_.data(), out + r * n, n);
    }
  }

  Loader& loader_;
  std::string prefix_;
  std::vector<std::string> names_;
  std::map<std::string, const io::TensorInfo*> touched_;
  std::map<const io::TensorInfo*, std::string> format_names_;
  std::vector<std::byte> row_;
};

// ---- one operator of a plug-in at one module

struct Shapes {
  std::int64_t n_in = 0, n_out = 0, d_ff = 0;
  double eps = 0.0;
  bool has_bias = false;
  std::string weight, bias;
};

class Instance {
 public:
  Instance(const PluginRow& row, const Builder& at, Shapes shapes)
      : row_(row),
        path_(at.path()),
        device_(at.site().device),
        shapes_(std::move(shapes)),
        given_(at.placement().at(at.path()).kwargs) {
    n_threads_ = 1;
    create();  // so that it can refuse shapes and keyword arguments before weights are read
  }
  ~Instance() { unload(); }
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  void load(Loader& loader, const std::vector<WeightSpec>& weights) {
    // Made anew: it may have been unloaded, and now the number of threads is known.
    unload();
    n_threads_ = loader.cpu().pool.size();
    create();
    Reader reader(loader, path_, weights);
    const kt_reader table = reader.table();
    char error[kErrorSize] = "";
    if (row_.table->load(self_, &table, error, sizeof error) != 0) {
      fail(ErrorCode::kMismatch, path_, "operator {} could not load: {}", row_.class_path(),
           one_line(error));
    }
    reader.finish(path_, row_.class_path());
    loaded_ = true;
  }

  void unload() noexcept {
    if (self_ != nullptr) row_.table->destroy(self_);
    self_ = nullptr;
    loaded_ = false;
  }

  void run(Step& step, ConstMatrixF x, MatrixF out) noexcept {
    const std::size_t mark = step.arena.mark();
    kt_run run = rows_of(x, out);
    run.host = &step;
    run.parallel = [](void* host, std::int64_t n_tasks,
                      void (*task)(void*, std::int64_t, std::int32_t) noexcept,
                      void* argument) noexcept {
      static_cast<Step*>(host)->cpu.pool.run(
          n_tasks, [&](std::int64_t i, int worker) { task(argument, i, worker); });
    };
    run.scratch = [](void* host, std::size_t bytes) noexcept -> void* {
      constexpr std::size_t kMost = std::size_t{1} << 40;
      return bytes > kMost ? nullptr
                           : static_cast<Step*>(host)->arena.allocate<std::byte>(
                                 static_cast<std::int64_t>(bytes));
    };
    row_.table->run(self_, &run);
    step.arena.release(mark);
  }

  // Rows that nobody else touches; may be called inside a parallel region.
  void run_alone(ConstMatrixF x, MatrixF out) noexcept {
    kt_run run = rows_of(x, out);
    run.parallel = [](void*, std::int64_t n_tasks,
                      void (*task)(void*, std::int64_t, std::int32_t) noexcept,
                      void* argument) noexcept {
      for (std::int64_t i = 0; i < n_tasks; ++i) task(argument, i, 0);
    };
    run.scratch = [](void*, std::size_t) noexcept -> void* { return nullptr; };
    row_.table->run(self_, &run);
  }

  std::uint64_t weight_bytes() const { return loaded_ ? row_.table->weight_bytes(self_) : 0; }
  std::string weight_format() const {
    if (!loaded_ || row_.table->weight_format == nullptr) return {};
    const char* name = row_.table->weight_format(self_);
    return name == nullptr ? std::string() : printable({name, ::strnlen(name, 64)});
  }
  std::string kernel_name() const { return "plug-in " + row_.library->name(); }

 private:
  static kt_run rows_of(ConstMatrixF x, MatrixF out) noexcept {
    kt_run run{};
    run.size = sizeof run;
    run.x = x.data;
    run.x_stride = x.stride;
    run.out = out.data;
    run.out_stride = out.stride;
    run.n_rows = x.n_rows;
    return run;
  }

  [[noreturn]] void refuse(const kt_kwarg_type& type, const char* wanted) const {
    fail(ErrorCode::kUsage, path_, "{} of operator {} is not {}", type.name, row_.class_path(),
         wanted);
  }

  // The rule's value as its declared type.
  kt_kwarg convert(const kt_kwarg_type& type, const Value& value) const {
    kt_kwarg kwarg{};
    kwarg.name = type.name;
    kwarg.type = type.type;
    const auto* whole = std::get_if<std::int64_t>(&value);
    if (type.type == KT_KWARG_FLAG) {
      const auto* flag = std::get_if<bool>(&value);
      if (flag == nullptr) refuse(type, "True or False");
      kwarg.flag = *flag ? 1 : 0;
    } else if (type.type == KT_KWARG_WHOLE) {
      if (whole == nullptr) refuse(type, "a whole number");
      kwarg.whole = *whole;
    } else if (type.type == KT_KWARG_REAL) {
      const auto* real = std::get_if<double>(&value);
      if (real == nullptr && whole == nullptr) refuse(type, "a number");
      kwarg.real = real != nullptr ? *real : static_cast<double>(*whole);
    } else {
      const auto* text = std::get_if<std::string>(&value);
      if (text == nullptr) refuse(type, "text");
      kwarg.text = text->c_str();
    }
    return kwarg;
  }

  void create() {
    std::vector<kt_kwarg> kwargs;
    for (std::int32_t i = 0; i < row_.table->n_kwargs; ++i) {
      const kt_kwarg_type& type = row_.table->kwargs[i];
      const auto it = given_.find(type.name);
      if (it == given_.end() || std::holds_alternative<std::monostate>(it->second)) continue;
      kwargs.push_back(convert(type, it->second));
    }
    kt_site site{};
    site.size = sizeof site;
    site.path = path_.c_str();
    site.device = device_.c_str();
    site.kind = row_.table->kind;
    site.n_threads = n_threads_;
    site.n_in = shapes_.n_in;
    site.n_out = shapes_.n_out;
    site.d_ff = shapes_.d_ff;
    site.eps = shapes_.eps;
    site.has_bias = shapes_.has_bias ? 1 : 0;
    site.n_kwargs = static_cast<std::int32_t>(kwargs.size());
    site.kwargs = kwargs.data();
    site.weight = shapes_.weight.empty() ? nullptr : shapes_.weight.c_str();
    site.bias = shapes_.bias.empty() ? nullptr : shapes_.bias.c_str();
    char error[kErrorSize] = "";
    self_ = row_.table->create(&site, error, sizeof error);
    if (self_ == nullptr) {
      fail(ErrorCode::kUnsupported, path_, "operator {} refuses this module: {}", row_.class_path(),
           one_line(error));
    }
  }

  PluginRow row_;
  std::string path_, device_;
  Shapes shapes_;
  Kwargs given_;
  int n_threads_ = 1;
  void* self_ = nullptr;
  bool loaded_ = false;
};

// What the adapters of all kinds share.
template <class Kind>
class PluginModule : public Kind {
 public:
  template <class... Base>
  PluginModule(const PluginRow& row, const Builder& at, Shapes shapes,
               std::vector<WeightSpec> weights, Base... base)
      : Kind(at.site(), base...),
        instance_(row, at, std::move(shapes)),
        weights_(std::move(weights)) {}
  std::vector<WeightSpec> weights() const override { return weights_; }
  void load(Loader& loader) override { instance_.load(loader, weights_); }
  void unload() override { instance_.unload(); }
  std::uint64_t weight_bytes() const override { return instance_.weight_bytes(); }
  std::string weight_format() const override { return instance_.weight_format(); }
  std::string kernel_name() const override { return instance_.kernel_name(); }

 protected:
  Instance instance_;
  std::vector<WeightSpec> weights_;
};

class PluginLinear : public PluginModule<Linear> {
 public:
  PluginLinear(const PluginRow& row, const Builder& at, Shapes shapes,
               std::vector<WeightSpec> weights)
      : PluginModule(row, at, shapes, std::move(weights), shapes.n_out, shapes.n_in),
        weight_{shapes.weight, {shapes.n_out, shapes.n_in}} {}
  Kept kept(const io::WeightSource& source, backend::ActPolicy act) const override {
    Kept kept = PluginModule::kept(source, act);
    if (!kept.matrices.empty()) return kept;
    const std::uint64_t own = kept.file_bytes;
    kept.add(source, weight_);  // another module's
    kept.file_bytes = own;
    return kept;
  }

 private:
  void do_run(Step& step, Activation& x, Activation& out) noexcept override {
    instance_.run(step, x.f32(), out.write());
  }
  WeightSpec weight_;
};

class PluginNorm : public PluginModule<Norm> {
 public:
  PluginNorm(const PluginRow& row, const Builder& at, Shapes shapes,
             std::vector<WeightSpec> weights)
      : PluginModule(row, at, shapes, std::move(weights)), dim_(shapes.n_out) {}
  void run_vectors(Step&, float* x, std::int64_t n_vectors, std::int64_t stride) noexcept override {
    const MatrixF vectors{x, n_vectors, dim_, stride};
    instance_.run_alone(vectors, vectors);
  }
  void run_vectors(Step& step, Activation& x) noexcept override {
    const MatrixF rows = x.update();
    run_vectors(step, rows.data, rows.n_rows * rows.n_cols / dim_, dim_);
  }

 private:
  void do_run(Step& step, Activation& residual, Activation* delta,
              Activation& out) noexcept override {
    const ConstMatrixF x = residual.f32();
    const MatrixF y = out.write();
    for_summed_rows(step, residual, delta,
                    [&](std::int64_t r) { instance_.run_alone(x.rows(r, 1), y.rows(r, 1)); });
  }
  std::int64_t dim_;
};

class PluginMlp : public PluginModule<Mlp> {
 public:
  using PluginModule::PluginModule;

 private:
  void do_run(Step& step, Activation& x, Activation& delta) noexcept override {
    instance_.run(step, x.f32(), delta.write());
  }
};

// ---- makers

std::unique_ptr<Linear> make_linear(const PluginRow& row, const Builder& at,
                                    const LinearSpec& spec) {
  Shapes shapes{spec.n_in, spec.n_out, 0, 0.0, !spec.bias.empty(), spec.weight, spec.bias};
  std::vector<WeightSpec> weights;
  if (!spec.shared_weight) weights.push_back({spec.weight, {spec.n_out, spec.n_in}});
  if (!spec.bias.empty()) weights.push_back({spec.bias, {spec.n_out}});
  return std::make_unique<PluginLinear>(row, at, std::move(shapes), std::move(weights));
}

std::unique_ptr<Norm> make_norm(const PluginRow& row, const Builder& at, const NormSpec& spec) {
  const std::string weight = at.path() + ".weight";
  return std::make_unique<PluginNorm>(row, at,
                                      Shapes{spec.dim, spec.dim, 0, spec.eps, false, weight, {}},
                                      std::vector<WeightSpec>{{weight, {spec.dim}}});
}

std::unique_ptr<Mlp> make_mlp(const PluginRow& row, const Builder& at, const MlpSpec& spec) {
  std::vector<WeightSpec> weights;
  const auto linear = [&](const char* name, std::int64_t n_out, std::int64_t n_in) {
    const std::string path = at.path() + "." + name;
    weights.push_back({path + ".weight", {n_out, n_in}});
    if (spec.bias) weights.push_back({path + ".bias", {n_out}});
  };
  linear("gate_proj", spec.d_ff, spec.d_model);
  linear("up_proj", spec.d_ff, spec.d_model);
  linear("down_proj", spec.d_model, spec.d_ff);
  return std::make_unique<PluginMlp>(
      row, at, Shapes{spec.d_model, spec.d_model, spec.d_ff, 0.0, spec.bias, {}, {}},
      std::move(weights), std::string_view("Mlp"));
}

OperatorRow catalogue_row(const PluginRow& row) {
  OperatorRow result;
  result.module = row.library->name();
  result.name = row.table->name;
  result.devices = {"cpu"};
  for (std::int32_t i = 0; i < row.table->n_kwargs; ++i)
    result.kwargs.emplace_back(row.table->kwargs[i].name);
  switch (row.table->kind) {
    case KT_KIND_LINEAR:
      result.kind = "Linear";
      result.maker = Make<Linear, LinearSpec>(
          [row](const Builder& at, const LinearSpec& spec) { return make_linear(row, at, spec); });
      break;
    case KT_KIND_NORM:
      result.kind = "Norm";
      result.maker = Make<Norm, NormSpec>(
          [row](const Builder& at, const NormSpec& spec) { return make_norm(row, at, spec); });
      break;
    default:
      result.kind = "Mlp";
      result.maker = Make<Mlp, MlpSpec>(
          [row](const Builder& at, const MlpSpec& spec) { return make_mlp(row, at, spec); });
  }
  result.from_plugin = true;
  return result;
}

}  // namespace

void load_plugin(Catalogue& catalogue, const std::string& path) {
  const auto library = PluginLibrary::open(path);
  std::vector<OperatorRow> rows;
  for (const kt_operator* table : library->operators()) {
    OperatorRow row = catalogue_row({library, table});
    const auto same = [&](const OperatorRow& other) { return other.name == row.name; };
    if (catalogue.find(row.name) != nullptr || std::any_of(rows.begin(), rows.end(), same)) {
      fail(ErrorCode::kUsage, path,
           "there is already an operator class '{}'; give the plug-in's another name", row.name);
    }
    rows.push_back(std::move(row));
  }
  for (OperatorRow& row : rows) catalogue.add(std::move(row));
}

}  // namespace kt::operators
