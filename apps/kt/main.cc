// kt: entry point. Checks the command line, runs the chosen subcommand, and turns kt::Error into
// one line on standard error and an exit status by class (base/error.h). Thread rule: main thread.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/suggest.h"
#include "base/utf8.h"
#include "bus_error.h"
#include "commands.h"
#include "historic_flags.h"
#include "print.h"

namespace kt::app {
namespace {

void add_commands(CLI::App& root, Action& action) {
  add_run(root, action);
  add_chat(root, action);
  add_serve(root, action);
  add_list(root, action);
  add_pull(root, action);
  add_inspect(root, action);
  add_quantize(root, action);
  add_plan(root, action);
  add_bench(root, action);
  add_perplexity(root, action);
  add_logits(root, action);
  add_doctor(root, action);
  add_completion(root, action);
  add_version(root, action);
}

std::vector<std::string> command_names(const CLI::App& root) {
  std::vector<std::string> names;
  for (const CLI::App* command : root.get_subcommands(nullptr))
    names.push_back(command->get_name());
  return names;
}

std::vector<std::string> flag_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

[[noreturn]] void reject(const CLI::App& root, const CLI::App* command,
                         const CLI::ParseError& error) {
  const CLI::App& at = command != nullptr ? *command : root;
  const std::string help = command != nullptr ? "kt " + at.get_name() + " --help" : "kt --help";
  const std::vector<std::string> extras = root.remaining(true);
  for (const std::string& extra : extras) {
    if (extra.size() < 2 || extra[0] != '-') continue;
    const std::string flag = extra.substr(0, extra.find('='));
    const auto near = nearest(flag, flag_names(at));
    fail(ErrorCode::kUsage, "", "unknown flag {}{}; see {}", flag,
         near ? fmt::format("; did you mean {}?", *near) : "", help);
  }
  if (!extras.empty() && dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    fail(ErrorCode::kUsage, "", "unexpected argument '{}'; see {}", extras.front(), help);
  }
  std::string message = error.what();
  for (char& c : message) c = c == '\n' ? ' ' : c;
  fail(ErrorCode::kUsage, "", "{}; see {}", message, help);
}

void check_command_name(const CLI::App& root, const std::string& word) {
  const std::vector<std::string> names = command_names(root);
  for (const std::string& name : names) {
    if (name == word) return;
  }
  const auto near = nearest(word, names);
  fail(ErrorCode::kUsage, "", "unknown command '{}'{}; see kt --help", word,
       near ? fmt::format("; did you mean {}?", *near) : "");
}

// What the command line says, last first as CLI11 wants it; the original server's flags of
// `kt serve` translated.
std::vector<std::string> arguments(int argc, char** argv) {
  std::vector<std::string> all(argv + 1, argv + argc);
  if (all.front() == "serve") {
    HistoricArguments historic = translate_historic({all.begin() + 1, all.end()});
    for (const std::string& note : historic.notes)
      std::fprintf(stderr, "kt: %s\n", printable(note).c_str());
    all.resize(1);
    all.insert(all.end(), historic.arguments.begin(), historic.arguments.end());
  }
  std::reverse(all.begin(), all.end());
  return all;
}

int run_main(int argc, char** argv) {
  CLI::App root{"Runs Mixture-of-Experts language models on this machine.", "kt"};
  root.require_subcommand(1);
  root.get_formatter()->column_width(30);
  root.get_formatter()->label("Positionals", "Arguments");
  root.get_formatter()->label("SUBCOMMAND", "COMMAND");
  root.set_help_flag("-h,--help", "Show this help and leave");
  root.set_version_flag("--version", std::string("kt ") + KT_VERSION, "Show the version and leave");
  root.footer(
      "`kt COMMAND --help` tells more about each.\n\nExamples:\n"
      "  kt run models/tiny-moe/tiny-moe-q4_k_m.gguf -p 'Once upon a time'\n"
      "  kt pull smollm2 && kt chat smollm2");
  Action action;
  add_commands(root, action);
  if (argc < 2) {
    std::fputs(root.help().c_str(), stderr);
    return exit_status(ErrorCode::kUsage);
  }
  if (argv[1][0] != '-') check_command_name(root, argv[1]);
  try {
    root.parse(arguments(argc, argv));
  } catch (const CLI::Success& request) {
    return root.exit(request);
  } catch (const CLI::ParseError& error) {
    const auto chosen = root.get_subcommands();
    reject(root, chosen.empty() ? nullptr : chosen.front(), error);
  }
  const int status = action();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    fail(ErrorCode::kIo, "standard output", "cannot be written");
  }
  return status;
}

int report(ErrorCode code, const char* message) {
  std::fflush(stdout);
  print_error(message);
  return exit_status(code);
}

}  // namespace
}  // namespace kt::app

int main(int argc, char** argv) {
  kt::app::install_bus_error_handler();
  try {
    return kt::app::run_main(argc, argv);
  } catch (const kt::Error& error) {
    return kt::app::report(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return kt::app::report(
        kt::ErrorCode::kNoMemory,
        "out of memory; close other programs or take a smaller model or context");
  } catch (const std::exception& error) {
    return kt::app::report(kt::ErrorCode::kInternal, error.what());
  }
}
