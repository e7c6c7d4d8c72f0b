// Write an operator of your own as a C++ class; this header turns it into a row of the C table of
// plugin.h. Header only, nothing to link:
//
//   struct Mine : kt::plugin::Linear {                        // or Norm, Mlp
//     static constexpr kt_kwarg_type kKwargs[] = {kt::plugin::real("keep")};   // optional
//     explicit Mine(const kt::plugin::Site& site);            // shapes and keyword arguments
//     void load(const kt::plugin::Weights& weights);          // reads and packs its tensors
//     void run(const kt::plugin::Run& run) noexcept;          // out = f(x)
//     std::uint64_t weight_bytes() const;
//   };
//   KT_PLUGIN(my_plugin, KT_OPERATOR(Mine))                   // a rule names it my_plugin.Mine
//
// Constructor and load may throw std::exception: its text becomes the error of kt. Thread rule: as
// plugin.h.
#pragma once
#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kt/plugin.h"

namespace kt::plugin {

/// Bases that say which kind of module an operator stands for.
struct Linear {
  static constexpr std::int32_t kKind = KT_KIND_LINEAR;
};
struct Norm {
  static constexpr std::int32_t kKind = KT_KIND_NORM;
};
struct Mlp {
  static constexpr std::int32_t kKind = KT_KIND_MLP;
};

/// Rows of kKwargs.
constexpr kt_kwarg_type flag(const char* name) { return {name, KT_KWARG_FLAG, 0}; }
constexpr kt_kwarg_type whole(const char* name) { return {name, KT_KWARG_WHOLE, 0}; }
constexpr kt_kwarg_type real(const char* name) { return {name, KT_KWARG_REAL, 0}; }
constexpr kt_kwarg_type text(const char* name) { return {name, KT_KWARG_TEXT, 0}; }

/// The module that an operator is made for. Valid in the constructor only.
class Site {
 public:
  explicit Site(const kt_site& site) : site_(site) {}
  std::string path() const { return site_.path; }
  std::string device() const { return site_.device; }
  int n_threads() const { return site_.n_threads; }
  std::int64_t n_in() const { return site_.n_in; }
  std::int64_t n_out() const { return site_.n_out; }
  std::int64_t d_ff() const { return site_.d_ff; }  // of an Mlp
  double eps() const { return site_.eps; }          // of a Norm
  bool has_bias() const { return site_.has_bias != 0; }
  /// Tensor names of a Linear's or Norm's weight, and of a Linear's bias (empty: none).
  std::string weight() const { return or_empty(site_.weight); }
  std::string bias() const { return or_empty(site_.bias); }
  /// Keyword arguments of the rule; the fallback when it does not give them.
  bool flag(std::string_view name, bool fallback) const {
    const kt_kwarg* k = find(name, KT_KWARG_FLAG);
    return k == nullptr ? fallback : k->flag != 0;
  }
  std::int64_t whole(std::string_view name, std::int64_t fallback) const {
    const kt_kwarg* k = find(name, KT_KWARG_WHOLE);
    return k == nullptr ? fallback : k->whole;
  }
  double real(std::string_view name, double fallback) const {
    const kt_kwarg* k = find(name, KT_KWARG_REAL);
    return k == nullptr ? fallback : k->real;
  }
  std::string text(std::string_view name, const std::string& fallback) const {
    const kt_kwarg* k = find(name, KT_KWARG_TEXT);
    return k == nullptr ? fallback : std::string(k->text);
  }

 private:
  static std::string or_empty(const char* s) { return s == nullptr ? std::string() : s; }
  const kt_kwarg* find(std::string_view name, std::int32_t type) const {
    for (std::int32_t i = 0; i < site_.n_kwargs; ++i) {
      if (site_.kwargs[i].type == type && site_.kwargs[i].name == name) return &site_.kwargs[i];
    }
    return nullptr;
  }
  const kt_site& site_;
};

/// A tensor of the file.
struct Tensor {
  std::int64_t n_rows = 0;    // product of all dimensions but the last
  std::int64_t n_cols = 0;    // last dimension
  std::size_t row_bytes = 0;  // as stored
  std::string format;         // "Q4_K"
};

/// The module's tensors; valid in load only. Throws std::runtime_error when a tensor is missing.
class Weights {
 public:
  explicit Weights(const kt_reader& reader) : reader_(reader) {}
  bool has(const std::string& name) const {
    kt_tensor tensor{sizeof(kt_tensor), 0, 0, 0, nullptr};
    return reader_.find(reader_.host, name.c_str(), &tensor) == 0;
  }
  Tensor find(const std::string& name) const {
    kt_tensor tensor{sizeof(kt_tensor), 0, 0, 0, nullptr};
    if (reader_.find(reader_.host, name.c_str(), &tensor) != 0) {
      throw std::runtime_error("tensor '" + name + "' is missing");
    }
    return {tensor.n_rows, tensor.n_cols, tensor.row_bytes, tensor.format};
  }
  /// The whole tensor, decoded.
  std::vector<float> floats(const std::string& name) const {
    const Tensor tensor = find(name);
    std::vector<float> values(static_cast<std::size_t>(tensor.n_rows * tensor.n_cols));
    read_floats(name, 0, tensor.n_rows, values.data());
    return values;
  }
  /// Rows [row, row + n_rows): decoded, or as blocks of the tensor's format.
  void read_floats(const std::string& name, std::int64_t row, std::int64_t n_rows,
                   float* out) const {
    char error[kErrorSize] = "";
    if (reader_.read_floats(reader_.host, name.c_str(), row, n_rows, out, error, kErrorSize) != 0) {
      throw std::runtime_error(error);
    }
  }
  void read_blocks(const std::string& name, std::int64_t row, std::int64_t n_rows,
                   void* out) const {
    char error[kErrorSize] = "";
    if (reader_.read_blocks(reader_.host, name.c_str(), row, n_rows, out, error, kErrorSize) != 0) {
      throw std::runtime_error(error);
    }
  }

 private:
  static constexpr std::size_t kErrorSize = 512;
  const kt_reader& reader_;
};

/// One forward pass of the module.
class Run {
 public:
  explicit Run(const kt_run& run) : run_(run) {}
  std::int64_t n_rows() const noexcept { return run_.n_rows; }
  const float* x(std::int64_t row) const noexcept { return run_.x + row * run_.x_stride; }
  float* out(std::int64_t row) const noexcept { return run_.out + row * run_.out_stride; }
  /// f(i, worker) for i < n on all threads; may not be nested.
  template <class F>
  void parallel(std::int64_t n, F&& f) const noexcept {
    const auto task = [](void* argument, std::int64_t i, std::int32_t worker) noexcept {
      (*static_cast<std::remove_reference_t<F>*>(argument))(i, worker);
    };
    run_.parallel(run_.host, n, task,
                  const_cast<void*>(static_cast<const void*>(std::addressof(f))));
  }
  /// `count` values that live until run returns; null for norms and when there is no memory.
  template <class T>
  T* scratch(std::int64_t count) const noexcept {
    return static_cast<T*>(run_.scratch(run_.host, static_cast<std::size_t>(count) * sizeof(T)));
  }

 private:
  const kt_run& run_;
};

namespace detail {

inline void put_error(const char* text, char* error, std::size_t error_size) noexcept {
  if (error == nullptr || error_size == 0) return;
  const std::size_t n = std::min(std::strlen(text), error_size - 1);
  std::memcpy(error, text, n);
  error[n] = '\0';
}

// f(), with an exception turned into its text and `failed`.
template <class Result, class F>
Result guarded(char* error, std::size_t error_size, Result failed, F&& f) noexcept {
  try {
    return f();
  } catch (const std::exception& e) {
    put_error(e.what(), error, error_size);
  } catch (...) {
    put_error("an exception that is no std::exception", error, error_size);
  }
  return failed;
}

template <class T>
constexpr const kt_kwarg_type* kwargs(std::int32_t* n) {
  if constexpr (requires { T::kKwargs; }) {
    *n = static_cast<std::int32_t>(std::size(T::kKwargs));
    return std::data(T::kKwargs);
  } else {
    *n = 0;
    return nullptr;
  }
}

template <class T>
const char* format_of([[maybe_unused]] const void* self) {
  if constexpr (requires(const T& t) {
                  { t.weight_format() } -> std::convertible_to<const char*>;
                }) {
    return static_cast<const T*>(self)->weight_format();
  } else {
    return nullptr;
  }
}

}  // namespace detail

/// The table row of class T.
template <class T>
const kt_operator* row(const char* name) {
  static_assert(noexcept(std::declval<T&>().run(std::declval<const Run&>())),
                "run() must be noexcept: no exception may cross into kt");
  static const kt_operator kRow = [name] {
    kt_operator r{};
    r.size = sizeof r;
    r.name = name;
    r.kind = T::kKind;
    r.kwargs = detail::kwargs<T>(&r.n_kwargs);
    r.devices = "cpu";
    r.create = [](const kt_site* site, char* error, std::size_t size) -> void* {
      return detail::guarded<T*>(error, size, nullptr, [&] { return new T(Site(*site)); });
    };
    r.load = [](void* self, const kt_reader* reader, char* error, std::size_t size) {
      return detail::guarded<std::int32_t>(error, size, 1, [&] {
        static_cast<T*>(self)->load(Weights(*reader));
        return 0;
      });
    };
    r.run = [](void* self, const kt_run* run) { static_cast<T*>(self)->run(Run(*run)); };
    r.weight_bytes = [](const void* self) -> std::uint64_t {
      return static_cast<const T*>(self)->weight_bytes();
    };
    r.destroy = [](void* self) { delete static_cast<T*>(self); };
    r.weight_format = detail::format_of<T>;
    return r;
  }();
  return &kRow;
}

}  // namespace kt::plugin

#define KT_OPERATOR(Class) (::kt::plugin::row<Class>(#Class))

/// The library's entry: its name as rules write it, then one KT_OPERATOR per class.
#define KT_PLUGIN(Name, ...)                                                           \
  extern "C" const kt_plugin* kt_plugin_entry(std::uint32_t) {                         \
    static const kt_operator* const kOperators[] = {__VA_ARGS__};                      \
    static const kt_plugin kTable = {KT_PLUGIN_MAGIC,                                  \
                                     KT_PLUGIN_VERSION,                                \
                                     sizeof(kt_plugin),                                \
                                     #Name,                                            \
                                     static_cast<std::int64_t>(std::size(kOperators)), \
                                     kOperators};                                      \
    return &kTable;                                                                    \
  }
