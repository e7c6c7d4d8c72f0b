#include "serve/config.h"

#include <yaml-cpp/yaml.h>

#include "base/error.h"
#include "io/files.h"

namespace kt::serve {

std::map<std::string, std::string> read_config(const std::string& path) {
  const std::string text = io::read_text_file(path, 1 << 20);
  std::map<std::string, std::string> values;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return values;
    if (!root.IsMap()) fail(ErrorCode::kBadFile, path, "sections with keys are wanted");
    for (const auto& section : root) {
      if (!section.second.IsMap()) continue;
      for (const auto& entry : section.second) {
        if (!entry.second.IsScalar()) continue;
        values[section.first.as<std::string>() + "." + entry.first.as<std::string>()] =
            entry.second.as<std::string>();
      }
    }
  } catch (const YAML::Exception& error) {
    fail(ErrorCode::kBadFile, path, "line {}: {}", error.mark.line + 1, error.msg);
  }
  return values;
}

}  // namespace kt::serve
