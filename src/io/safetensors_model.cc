// Finding and joining the files of one safetensors model.
#include <algorithm>
#include <filesystem>
#include <set>

#include "io/files.h"
#include "io/json_util.h"
#include "io/quote.h"
#include "io/safetensors.h"

namespace kt::io {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxIndexBytes = std::size_t{256} << 20;
constexpr const char* kIndexName = "model.safetensors.index.json";

/// weight_map of an index: tensor name → file name in the same folder.
std::map<std::string, std::string> read_index(const std::string& path) {
  const nlohmann::json top = parse_json_object(read_text_file(path, kMaxIndexBytes), path);
  const auto weight_map = top.find("weight_map");
  if (weight_map == top.end() || !weight_map->is_object() || weight_map->empty()) {
    fail(ErrorCode::kBadFile, path, "has no \"weight_map\" object with tensors");
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : weight_map->items()) {
    if (!file.is_string())
      fail(ErrorCode::kBadFile, path, "maps tensor {} to no file name", quote(name));
    const auto text = file.get<std::string>();
    // A name that leads out of the folder is an attack, not a layout.
    if (text.find('/') != std::string::npos || text.find('\0') != std::string::npos ||
        !text.ends_with(".safetensors")) {
      fail(ErrorCode::kBadFile, path,
           "maps tensor {} to {}, the name of a .safetensors file beside it is wanted", quote(name),
           quote(text));
    }
    files.emplace(name, text);
  }
  return files;
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string path = it->path().string();
    if (path.ends_with(".safetensors")) paths.push_back(path);
  }
  if (error) fail(ErrorCode::kIo, folder, "cannot list the folder: {}", error.message());
  if (paths.empty()) fail(ErrorCode::kNotFound, folder, "holds no .safetensors file");
  std::sort(paths.begin(), paths.end());
  const std::string whole = (fs::path(folder) / "model.safetensors").string();
  if (std::find(paths.begin(), paths.end(), whole) != paths.end()) return {whole};
  return paths;
}

}  // namespace

SafetensorsModel SafetensorsModel::open(const std::string& path) {
  SafetensorsModel model;
  const bool is_folder = is_directory(path);
  fs::path folder = is_folder ? fs::path(path) : fs::path(path).parent_path();
  if (folder.empty()) folder = ".";
  const std::string index = (folder / kIndexName).string();
  const bool is_shard = !is_folder && path.find("-of-") != std::string::npos;
  if ((is_folder || is_shard) && fs::exists(index)) {
    const auto weight_map = read_index(index);
    std::set<std::string> names;
    for (const auto& [tensor, file] : weight_map) names.insert(file);
    for (const std::string& name : names) {
      if (!fs::exists(folder / name)) {
        fail(ErrorCode::kNotFound, (folder / name).string(),
             "is missing; {} names {} files, get them all", kIndexName, names.size());
      }
      model.add_file((folder / name).string());
    }
    for (const auto& [tensor, file] : weight_map) {
      const Ref* ref = model.find(tensor);
      if (ref == nullptr || model.files_[ref->file].path() != (folder / file).string()) {
        fail(ErrorCode::kMismatch, index,
             "says tensor {} is in {}, which is not so; index and files do not belong "
             "together",
             quote(tensor), quote(file));
      }
    }
    return model;
  }
  if (!is_folder) {
    model.add_file(path);
    return model;
  }
  for (const std::string& file : files_in(path)) model.add_file(file);
  return model;
}

void SafetensorsModel::add_file(const std::string& path) {
  files_.push_back(SafetensorsFile::open(path));
  const std::size_t f = files_.size() - 1;
  // The strings live in heap storage that moving the file object keeps.
  for (std::size_t t = 0; t < files_[f].tensors().size(); ++t) {
    if (!index_.emplace(files_[f].tensors()[t].name, refs_.size()).second) {
      fail(ErrorCode::kMismatch, path, "tensor {} is in another file of the model too",
           quote(files_[f].tensors()[t].name));
    }
    refs_.push_back({f, t});
  }
}

const SafetensorsModel::Ref* SafetensorsModel::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &refs_[found->second];
}

}  // namespace kt::io
