// kt version: what this binary is.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/cpu.h"
#include "commands.h"
#include "models/model.h"

namespace kt::app {
namespace {

int version() {
  std::string text = fmt::format("kt {} ({}, {})\n", KT_VERSION, KT_BUILD_TYPE, __VERSION__);
  text += "architectures:";
  for (const models::Architecture& a : models::architectures())
    text += std::string(" ") + a.model_type;
  text += "\ncpu: " + describe_caps(detect_caps()) + "\n";
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace

void add_version(CLI::App& root, Action& action) {
  CLI::App* command =
      root.add_subcommand("version", "Print the version and what this build supports");
  command->group("Tools");
  command->callback([&action] { action = version; });
}

}  // namespace kt::app
