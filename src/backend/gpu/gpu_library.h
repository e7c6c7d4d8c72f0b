// The GPU plug-in, looked for and opened: kt runs without it, and then has no GPUs.
//
//   asked for, $KT_GPU_PLUGIN, beside the program, ../lib/ktransformers → dlopen → kt_gpu_api()
//   → version, no function missing
// Thread rule: immutable after open(); gpus() from any thread.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "backend/gpu/gpu_api.h"
#include "base/error.h"
#include "base/shared_object.h"

namespace kt::backend {

/// What the driver shows; `problem` says in words why there is none.
struct GpuList {
  std::vector<GpuDescription> gpus;
  std::string problem;
};

class GpuLibrary {
 public:
  /// Name of the file that find() looks for.
  static constexpr const char* kFileName = "libkt_cuda.so";
  /// Variable that find() looks at.
  static constexpr const char* kVariable = "KT_GPU_PLUGIN";

  /// Throws kNotFound, kBadFile (no plug-in) and kUnsupported (one of another version of kt).
  static std::shared_ptr<const GpuLibrary> open(const std::string& path);

  /// Opens `asked`, else what kVariable names, else kFileName beside the program or in
  /// ../lib/ktransformers from there. Null when nothing is asked for and there is none.
  static std::shared_ptr<const GpuLibrary> find(const std::string& asked,
                                                const std::filesystem::path& program_folder = {});

  const std::string& path() const { return path_; }
  const GpuApi& api() const { return *api_; }
  /// Throws kIo when the driver cannot describe what it shows.
  GpuList gpus() const;

 private:
  GpuLibrary() = default;
  std::string path_;
  std::unique_ptr<SharedObject> object_;
  const GpuApi* api_ = nullptr;
};

}  // namespace kt::backend
