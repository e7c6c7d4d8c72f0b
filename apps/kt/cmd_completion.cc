// kt completion: shell completion scripts, written from the same option tree that parses the
// command line. An option whose type name lists values ("ref|avx2") completes them; other values
// complete as file names.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "commands.h"
#include "options.h"

namespace kt::app {
namespace {

struct Flag {
  std::string names;  // "-t --threads"
  std::vector<std::string> spellings;
  std::string description;
  std::string choices;  // "ref avx2", empty: any value
  bool takes_value = false;
};

struct CommandInfo {
  std::string name;
  std::string description;
  std::vector<Flag> flags;
};

/// Quotes for single-quoted shell strings.
std::string shell_quoted(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out;
}

std::vector<CommandInfo> describe(const CLI::App& root) {
  std::vector<CommandInfo> commands;
  for (const CLI::App* command : root.get_subcommands(nullptr)) {
    CommandInfo info{command->get_name(), command->get_description(), {}};
    for (const CLI::Option* option : command->get_options()) {
      if (option->get_positional()) continue;
      Flag flag;
      for (const std::string& name : option->get_snames()) flag.spellings.push_back("-" + name);
      for (const std::string& name : option->get_lnames()) flag.spellings.push_back("--" + name);
      for (const std::string& name : flag.spellings)
        flag.names += (flag.names.empty() ? "" : " ") + name;
      flag.description = option->get_description();
      flag.takes_value = option->get_type_size() != 0;
      const std::string type = option->get_type_name();
      if (flag.takes_value && type.find('|') != std::string::npos) {
        flag.choices = CLI::detail::find_and_replace(type, "|", " ");
      }
      info.flags.push_back(flag);
    }
    commands.push_back(info);
  }
  return commands;
}

std::string names_of(const std::vector<CommandInfo>& commands) {
  std::string out;
  for (const CommandInfo& c : commands) out += (out.empty() ? "" : " ") + c.name;
  return out;
}

std::string bash_script(const std::vector<CommandInfo>& commands) {
  std::string out = "# kt completion for bash: source <(kt completion bash)\n_kt() {\n";
  out += "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n";
  out += "  local command=${COMP_WORDS[1]} flags=''\n  COMPREPLY=()\n";
  out += fmt::format(
      "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    COMPREPLY=($(compgen -W '{} --help --version' -- "
      "\"$word\"))\n"
      "    return\n  fi\n  case \"$command\" in\n",
      names_of(commands));
  for (const CommandInfo& c : commands) {
    std::string flags;
    std::string values;
    for (const Flag& flag : c.flags) {
      flags += (flags.empty() ? "" : " ") + flag.names;
      if (flag.choices.empty()) continue;
      values += fmt::format("        {}) COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n",
                            CLI::detail::find_and_replace(flag.names, " ", "|"), flag.choices);
    }
    out += fmt::format("    {})\n      flags='{}'\n", c.name, flags);
    if (!values.empty()) out += "      case \"$before\" in\n" + values + "      esac\n";
    if (c.name == "completion") {
      out += "      COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$word\"))\n      return\n";
    }
    out += "      ;;\n";
  }
  out +=
      "  esac\n  case \"$word\" in\n    -*) COMPREPLY=($(compgen -W \"$flags\" -- \"$word\")) ;;\n"
      "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n  esac\n}\n"
      "complete -o filenames -F _kt kt\n";
  return out;
}

/// Escapes what _arguments treats specially inside a description.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return shell_quoted(out);
}

std::string zsh_script(const std::vector<CommandInfo>& commands) {
  std::string out =
      "#compdef kt\n# kt completion for zsh: kt completion zsh > \"${fpath[1]}/_kt\"\n_kt() {\n"
      "  if (( CURRENT == 2 )); then\n    local -a commands=(\n";
  for (const CommandInfo& c : commands) {
    out += fmt::format("      '{}:{}'\n", c.name, zsh_text(c.description));
  }
  out +=
      "    )\n    _describe command commands\n    return\n  fi\n  local command=$words[2]\n  shift "
      "words\n"
      "  (( CURRENT-- ))\n  case $command in\n";
  for (const CommandInfo& c : commands) {
    out += fmt::format("    {})\n      _arguments -s", c.name);
    for (const Flag& flag : c.flags) {
      for (const std::string& name : flag.spellings) {
        std::string value;
        if (flag.takes_value)
          value = flag.choices.empty() ? ":value:_files" : ":value:(" + flag.choices + ")";
        out += fmt::format(" \\\n        '{}[{}]{}'", name, zsh_text(flag.description), value);
      }
    }
    out += c.name == "completion" ? " \\\n        '1:shell:(bash zsh fish)'\n      ;;\n"
                                  : " \\\n        '*:file:_files'\n      ;;\n";
  }
  out += "  esac\n}\nif [ \"$funcstack[1]\" = _kt ]; then _kt \"$@\"; else compdef _kt kt; fi\n";
  return out;
}

std::string fish_script(const std::vector<CommandInfo>& commands) {
  std::string out =
      "# kt completion for fish: kt completion fish > ~/.config/fish/completions/kt.fish\n";
  for (const CommandInfo& c : commands) {
    out += fmt::format("complete -c kt -n __fish_use_subcommand -f -a {} -d '{}'\n", c.name,
                       shell_quoted(c.description));
  }
  for (const CommandInfo& c : commands) {
    for (const Flag& flag : c.flags) {
      out += fmt::format("complete -c kt -n '__fish_seen_subcommand_from {}'", c.name);
      for (const std::string& name : flag.spellings) {
        out += name.rfind("--", 0) == 0 ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      if (flag.takes_value)
        out += flag.choices.empty() ? " -r" : fmt::format(" -x -a '{}'", flag.choices);
      out += fmt::format(" -d '{}'\n", shell_quoted(flag.description));
    }
  }
  out += "complete -c kt -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n";
  return out;
}

}  // namespace

void add_completion(CLI::App& root, Action& action) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = root.add_subcommand("completion", "Print a completion script for a shell");
  command->group("Tools");
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->transform(one_of({"bash", "zsh", "fish"}))
      ->type_name("");
  command->footer(examples(
      {"source <(kt completion bash)", "kt completion fish > ~/.config/fish/completions/kt.fish"}));
  command->callback([shell, &root, &action] {
    action = [shell, &root] {
      const std::vector<CommandInfo> commands = describe(root);
      const std::string text = *shell == "bash"  ? bash_script(commands)
                               : *shell == "zsh" ? zsh_script(commands)
                                                 : fish_script(commands);
      std::fputs(text.c_str(), stdout);
      return 0;
    };
  });
}

}  // namespace kt::app
