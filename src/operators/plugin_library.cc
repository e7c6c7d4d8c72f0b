#include "operators/plugin_library.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace kt::operators {
namespace {

constexpr std::size_t kMaxName = 64;
constexpr std::int64_t kMaxOperators = 256;
constexpr std::int32_t kMaxKwargs = 64;
constexpr const char* kGuide = "docs/adding/operator.md shows how to write one";

// A C++ or Python identifier of reasonable length.
bool is_identifier(const char* text) {
  if (text == nullptr) return false;
  const std::string_view name(text, ::strnlen(text, kMaxName + 1));
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && name.size() <= kMaxName && letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

void check_devices(const kt_operator& row, const std::string& path) {
  if (row.devices != nullptr && std::string_view(row.devices, ::strnlen(row.devices, 4)) == "cpu")
    return;
  fail(ErrorCode::kUnsupported, path,
       "operator '{}' of the plug-in names other devices than \"cpu\", the one that plug-ins can "
       "use",
       row.name);
}

void check_kwargs(const kt_operator& row, const std::string& path) {
  const std::int32_t n = row.n_kwargs;
  if (n < 0 || n > kMaxKwargs || (n > 0 && row.kwargs == nullptr)) {
    fail(ErrorCode::kBadFile, path,
         "operator '{}' of the plug-in has {} keyword arguments, wanted 0 to {} and a list of them",
         row.name, n, kMaxKwargs);
  }
  std::set<std::string_view> seen;
  for (std::int32_t i = 0; i < n; ++i) {
    const kt_kwarg_type& kwarg = row.kwargs[i];
    if (!is_identifier(kwarg.name) || !seen.insert(kwarg.name).second) {
      fail(ErrorCode::kBadFile, path,
           "keyword argument {} of operator '{}' has no name of letters, digits and '_', or one "
           "that came before",
           i + 1, row.name);
    }
    if (kwarg.type < KT_KWARG_FLAG || kwarg.type > KT_KWARG_TEXT) {
      fail(ErrorCode::kUnsupported, path,
           "keyword argument '{}' of operator '{}' is of type {}, which this kt does not know",
           kwarg.name, row.name, kwarg.type);
    }
  }
}

}  // namespace

void PluginLibrary::check_operator(const kt_operator* row) const {
  if (row == nullptr || row->size < sizeof(kt_operator)) {
    fail(ErrorCode::kUnsupported, path_,
         "an operator row of the plug-in has {} bytes, this kt reads {}: rebuild it with this "
         "version's include/kt/plugin.h",
         row == nullptr ? 0 : row->size, sizeof(kt_operator));
  }
  if (!is_identifier(row->name)) {
    fail(ErrorCode::kBadFile, path_,
         "an operator of the plug-in has no name of letters, digits and '_' of at most {} letters",
         kMaxName);
  }
  if (row->kind < KT_KIND_LINEAR || row->kind > KT_KIND_MLP) {
    fail(ErrorCode::kUnsupported, path_,
         "operator '{}' of the plug-in is of kind {}; plug-ins can bring Linear (1), Norm (2) and "
         "Mlp (3)",
         row->name, row->kind);
  }
  if (row->create == nullptr || row->load == nullptr || row->run == nullptr ||
      row->weight_bytes == nullptr || row->destroy == nullptr) {
    fail(ErrorCode::kBadFile, path_,
         "operator '{}' of the plug-in lacks one of create, load, run, weight_bytes and destroy",
         row->name);
  }
  check_devices(*row, path_);
  check_kwargs(*row, path_);
}

std::shared_ptr<const PluginLibrary> PluginLibrary::open(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path file = std::filesystem::canonical(path, ignored);
  if (ignored) {
    fail(ErrorCode::kNotFound, path, "there is no such file; --plugin wants a shared object (.so)");
  }
  if (!std::filesystem::is_regular_file(file, ignored)) {
    fail(ErrorCode::kUsage, path, "is no regular file; --plugin wants a shared object (.so)");
  }
  const std::shared_ptr<PluginLibrary> library(new PluginLibrary);
  library->path_ = path;
  std::string problem;
  library->object_ = SharedObject::open(file, SharedObject::Unload::kWithObject, &problem);
  if (library->object_ == nullptr) {
    fail(ErrorCode::kBadFile, path, "cannot be opened as a plug-in: {}; {}", problem, kGuide);
  }
  const auto entry =
      reinterpret_cast<kt_plugin_entry_function>(library->object_->symbol(KT_PLUGIN_ENTRY));
  if (entry == nullptr) {
    fail(ErrorCode::kBadFile, path, "is a library without the function {}, so no plug-in; {}",
         KT_PLUGIN_ENTRY, kGuide);
  }
  const kt_plugin* table = entry(KT_PLUGIN_VERSION);
  if (table == nullptr || table->magic != KT_PLUGIN_MAGIC) {
    fail(ErrorCode::kBadFile, path, "{} returned no plug-in table; {}", KT_PLUGIN_ENTRY, kGuide);
  }
  if (table->version != KT_PLUGIN_VERSION || table->size < sizeof(kt_plugin)) {
    fail(ErrorCode::kUnsupported, path,
         "is a plug-in for version {} of the table, this kt has version {}: rebuild it with this "
         "version's include/kt/plugin.h",
         table->version, KT_PLUGIN_VERSION);
  }
  if (!is_identifier(table->name) || std::string_view(table->name) == "ktransformers") {
    fail(ErrorCode::kBadFile, path,
         "the plug-in has no name of letters, digits and '_' of at most {} letters, or that of "
         "ktransformers itself",
         kMaxName);
  }
  library->name_ = table->name;
  const std::int64_t n = table->n_operators;
  if (n < 1 || n > kMaxOperators || table->operators == nullptr) {
    fail(ErrorCode::kBadFile, path, "the plug-in has {} operators, wanted 1 to {}", n,
         kMaxOperators);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    library->check_operator(table->operators[i]);
    library->operators_.push_back(table->operators[i]);
  }
  return library;
}

}  // namespace kt::operators
