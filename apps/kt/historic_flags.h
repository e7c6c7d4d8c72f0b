// The original server's flags and ~/.ktransformers/config.yaml on the command line of `kt serve`:
// what has a counterpart goes there, the rest is said once to do nothing.
//
//   command line ─translate→ our flags in front of the user's, and notes → CLI11
//
// Thread rule: main thread.
#pragma once
#include <string>
#include <vector>

namespace kt::app {

struct HistoricArguments {
  std::vector<std::string> arguments;  // what the program goes on with
  std::vector<std::string> notes;      // lines for standard error
};

/// `arguments`: those behind `kt serve`. The configuration file is ~/.ktransformers/config.yaml
/// when it is there; flags outweigh it. Throws as serve::read_config.
HistoricArguments translate_historic(const std::vector<std::string>& arguments);

}  // namespace kt::app
