#include "backend/gpu/gpu_library.h"

#include "base/env.h"
#include "base/utf8.h"

namespace kt::backend {
namespace {

constexpr const char* kAdvice = "take the one that came with this kt";

// The first function that a table lacks, or null.
const char* missing_function(const GpuApi& api) {
#define GPU_CALL(result, name, parameters) \
  if (api.name == nullptr) return #name;
#define GPU_KERNEL(name) \
  if (api.name == nullptr) return #name;
#include "backend/gpu/gpu_api.inc"
#undef GPU_CALL
#undef GPU_KERNEL
  return nullptr;
}

std::filesystem::path folder_of_program() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

}  // namespace

std::shared_ptr<const GpuLibrary> GpuLibrary::open(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path file = std::filesystem::canonical(path, ignored);
  if (ignored || !std::filesystem::is_regular_file(file, ignored)) {
    fail(ErrorCode::kNotFound, path, "there is no such file; a GPU plug-in ({}) is wanted",
         kFileName);
  }
  const std::shared_ptr<GpuLibrary> library(new GpuLibrary);
  library->path_ = path;
  std::string problem;
  // The driver has threads of its own, and CUDA an exit handler.
  library->object_ = SharedObject::open(file, SharedObject::Unload::kNever, &problem);
  if (library->object_ == nullptr) {
    fail(ErrorCode::kBadFile, path, "cannot be opened as a GPU plug-in: {}; {}", problem, kAdvice);
  }
  const auto entry = reinterpret_cast<GpuApiEntry>(library->object_->symbol(kGpuApiEntry));
  library->api_ = entry == nullptr ? nullptr : entry();
  if (library->api_ == nullptr) {
    fail(ErrorCode::kBadFile, path, "is no GPU plug-in: {} {}; {}", kGpuApiEntry,
         entry == nullptr ? "is missing" : "returned no table", kAdvice);
  }
  if (library->api_->version != KT_GPU_API_VERSION) {
    fail(ErrorCode::kUnsupported, path,
         "is the GPU plug-in of another build of kt (functions {:016x}, this kt has {:016x}); {}",
         library->api_->version, KT_GPU_API_VERSION, kAdvice);
  }
  if (const char* name = missing_function(*library->api_); name != nullptr) {
    fail(ErrorCode::kBadFile, path, "the GPU plug-in lacks the function {}; {}", name, kAdvice);
  }
  return library;
}

std::shared_ptr<const GpuLibrary> GpuLibrary::find(const std::string& asked,
                                                   const std::filesystem::path& program_folder) {
  if (!asked.empty()) return open(asked);
  if (const auto path = env(kVariable)) return open(*path);
  const std::filesystem::path folder =
      program_folder.empty() ? folder_of_program() : program_folder;
  for (const std::filesystem::path& path :
       {folder / kFileName, folder.parent_path() / "lib/ktransformers" / kFileName}) {
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) return open(path.string());
  }
  return nullptr;
}

GpuList GpuLibrary::gpus() const {
  GpuList list;
  const char* problem = "";
  const int n = api_->device_count(&problem);
  list.problem = n == 0 ? printable(problem) : "";
  for (int i = 0; i < n; ++i) {
    GpuDescription description;
    if (api_->describe(i, &description) != Status::kOk) {
      fail(ErrorCode::kIo, fmt::format("GPU {}", i), "the driver cannot describe it: {}",
           printable(api_->error_text()));
    }
    list.gpus.push_back(description);
  }
  return list;
}

}  // namespace kt::backend
