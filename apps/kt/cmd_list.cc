// kt list: the models that can be named: those in the local model folder, and those `kt pull` can
// bring.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "commands.h"
#include "options.h"
#include "print.h"
#include "session/registry.h"

namespace kt::app {
namespace {

int list() {
  Table table("lrl");
  const std::vector<session::LocalModel> local = session::local_models();
  for (const session::LocalModel& model : local) {
    table.row({model.name, format_bytes(static_cast<double>(model.bytes)), model.path});
  }
  for (const session::KnownModel& model : session::known_models()) {
    const bool here = std::any_of(local.begin(), local.end(),
                                  [&model](const auto& l) { return l.name == model.name; });
    if (here) continue;
    table.row({model.name, format_bytes(static_cast<double>(model.bytes)),
               fmt::format("{}; bring it with: kt pull {}", model.title, model.name)});
  }
  std::fputs(table.text().c_str(), stdout);
  return 0;
}

}  // namespace

void add_list(CLI::App& root, Action& action) {
  CLI::App* command = root.add_subcommand("list", "List the models that can be used by name");
  command->group("Models");
  command->footer(
      "Models live in $KT_MODELS, or in $XDG_DATA_HOME/ktransformers/models, or in\n"
      "~/.local/share/ktransformers/models.");
  command->callback([&action] { action = list; });
}

}  // namespace kt::app
