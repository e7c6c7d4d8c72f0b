#include <filesystem>

#include "io/files.h"
#include "io/gguf_source.h"
#include "io/safetensors_source.h"
#include "io/weight_source.h"

namespace kt::io {
namespace {

bool holds_file_ending(const std::string& folder, std::string_view ending) {
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    if (it->path().string().ends_with(ending)) return true;
  }
  return false;
}

}  // namespace

std::unique_ptr<WeightSource> open_weights(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    fail(ErrorCode::kNotFound, path, "no such file or folder; name a .gguf file or a model folder");
  }
  if (is_directory(path)) {
    // A GGUF file beside safetensors was made from them.
    const bool has_config = std::filesystem::exists(std::filesystem::path(path) / "config.json");
    if (has_config && holds_file_ending(path, ".safetensors"))
      return std::make_unique<SafetensorsSource>(path);
    if (holds_file_ending(path, ".gguf")) return std::make_unique<GgufSource>(path);
    fail(ErrorCode::kNotFound, path, "holds neither .gguf files nor config.json with .safetensors");
  }
  if (path.ends_with(".gguf")) return std::make_unique<GgufSource>(path);
  if (path.ends_with(".safetensors")) return std::make_unique<SafetensorsSource>(path);
  fail(ErrorCode::kUnsupported, path, "is not a .gguf or .safetensors file, nor a model folder");
}

}  // namespace kt::io
