// A shared object opened at run time: operators of a user, the GPU plug-in. Its headers are read
// first, as the dynamic linker maps what they promise without looking at the file's size, and a
// file cut short would end the process. Thread rule: open and symbol may be called from any thread.
#pragma once
#include <filesystem>
#include <memory>
#include <string>

namespace kt {

class SharedObject {
 public:
  /// When it may leave memory: with the object, or never (libraries with threads or exit handlers).
  enum class Unload { kWithObject, kNever };

  /// Null when this is no whole 64-bit shared object or the linker refuses it; *problem says why.
  static std::unique_ptr<SharedObject> open(const std::filesystem::path& file, Unload unload,
                                            std::string* problem);
  ~SharedObject();
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;

  /// Address of an exported symbol, or null.
  void* symbol(const char* name) const;

 private:
  explicit SharedObject(void* handle) : handle_(handle) {}
  void* handle_;
};

}  // namespace kt
