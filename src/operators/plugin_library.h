// An open plug-in library and its checked rows; what load_plugin and the adapters share.
// Thread rule: immutable after open().
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "base/shared_object.h"
#include "kt/plugin.h"

namespace kt::operators {

class PluginLibrary {
 public:
  /// Opens and checks; throws as load_plugin.
  static std::shared_ptr<const PluginLibrary> open(const std::string& path);
  const std::string& path() const { return path_; }
  const std::string& name() const { return name_; }
  const std::vector<const kt_operator*>& operators() const { return operators_; }

 private:
  PluginLibrary() = default;
  void check_operator(const kt_operator* row) const;
  std::string path_;
  std::string name_;
  std::unique_ptr<SharedObject> object_;
  std::vector<const kt_operator*> operators_;
};

/// A row and the library that it must not outlive.
struct PluginRow {
  std::shared_ptr<const PluginLibrary> library;
  const kt_operator* table = nullptr;
  std::string class_path() const { return library->name() + "." + table->name; }
};

}  // namespace kt::operators
