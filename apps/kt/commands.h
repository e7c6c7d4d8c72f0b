// The subcommands of `kt`, one file each (cmd_<name>.cc). A command declares its options on the
// CLI11 tree and, when chosen, stores what to do as an Action; main runs it after the whole line
// has been checked. Thread rule: main thread.
#pragma once
#include <functional>

namespace CLI {
class App;
}

namespace kt::app {

/// Does the command's work and returns the exit status; throws kt::Error.
using Action = std::function<int()>;

void add_run(CLI::App& root, Action& action);
void add_chat(CLI::App& root, Action& action);
void add_serve(CLI::App& root, Action& action);
void add_inspect(CLI::App& root, Action& action);
void add_logits(CLI::App& root, Action& action);
void add_perplexity(CLI::App& root, Action& action);
void add_quantize(CLI::App& root, Action& action);
void add_plan(CLI::App& root, Action& action);
void add_bench(CLI::App& root, Action& action);
void add_doctor(CLI::App& root, Action& action);
void add_list(CLI::App& root, Action& action);
void add_pull(CLI::App& root, Action& action);
void add_completion(CLI::App& root, Action& action);
void add_version(CLI::App& root, Action& action);

}  // namespace kt::app
