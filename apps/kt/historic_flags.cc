#include "historic_flags.h"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/env.h"
#include "base/error.h"
#include "serve/config.h"

namespace kt::app {
namespace {

struct Row {
  std::string_view flag, key, target, why;  // target or why
};

constexpr Row kRows[] = {
#define ALIAS(flag, key, target) {flag, key, target, {}},
#define IDLE(flag, key, why) {flag, key, {}, why},
#include "historic_flags.inc"
#undef ALIAS
#undef IDLE
};

constexpr std::string_view kModel = "MODEL";

// A value that says nothing: the shipped file has many.
bool empty_value(const std::string& value) { return value.empty() || value == "~"; }

class Translation {
 public:
  void take_flag(const Row& row, const std::optional<std::string>& value) {
    if (row.target.empty()) {
      note(std::string(row.flag), row.why);
    } else if (value) {
      take(row.target, *value);
    } else {
      fail(ErrorCode::kUsage, std::string(row.flag), "a value is wanted");
    }
  }
  void take_key(const Row& row, const std::string& value, const std::vector<std::string>& given) {
    if (empty_value(value)) return;
    if (row.target.empty() || !std::count(given.begin(), given.end(), row.target)) {
      if (!row.target.empty()) take(row.target, value);
    }
  }
  void add(std::string argument) { result_.arguments.push_back(std::move(argument)); }
  bool has_model() const { return !model_.empty(); }
  HistoricArguments finish(bool model_given) {
    if (!model_given && !model_.empty())
      result_.arguments.insert(result_.arguments.begin(), model_);
    return std::move(result_);
  }

 private:
  // Of the folder with the configuration and the folder with the weights, the latter counts, which
  // comes later in the list.
  void take(std::string_view target, const std::string& value) {
    if (target == kModel) {
      model_ = value;
    } else {
      result_.arguments.insert(result_.arguments.end(), {std::string(target), value});
    }
  }
  void note(const std::string& what, std::string_view why) {
    result_.notes.push_back(fmt::format("{} does nothing here: {}", what, why));
  }
  HistoricArguments result_;
  std::string model_;
};

const Row* find_row(std::string_view flag) {
  for (const Row& row : kRows) {
    if (row.flag == flag) return &row;
  }
  return nullptr;
}

bool is_flag(const std::string& text) { return text.size() > 1 && text[0] == '-'; }

void take_config(const std::vector<std::string>& arguments, Translation& translation) {
  const auto home = env("HOME");
  if (!home) return;
  const std::string path = *home + "/.ktransformers/config.yaml";
  if (::access(path.c_str(), F_OK) != 0) return;
  const auto values = serve::read_config(path);
  for (const Row& row : kRows) {
    if (row.key.empty()) continue;
    const auto it = values.find(std::string(row.key));
    if (it != values.end()) translation.take_key(row, it->second, arguments);
  }
}

}  // namespace

HistoricArguments translate_historic(const std::vector<std::string>& arguments) {
  Translation translation;
  std::vector<std::string> given = arguments;
  for (const std::string& argument : arguments) {
    const std::string flag = argument.substr(0, argument.find('='));
    given.push_back(flag);
    const Row* row = find_row(flag);
    if (row != nullptr && !row->target.empty()) given.emplace_back(row->target);
  }
  take_config(given, translation);
  bool model_given = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const std::size_t equals = argument.find('=');
    const Row* row = is_flag(argument) ? find_row(argument.substr(0, equals)) : nullptr;
    if (row == nullptr) {
      const bool value =
          i > 0 && is_flag(arguments[i - 1]) && arguments[i - 1].find('=') == std::string::npos;
      model_given |= !is_flag(argument) && !value;
      translation.add(argument);
      continue;
    }
    std::optional<std::string> value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size() && !is_flag(arguments[i + 1])) {
      value = arguments[++i];
    }
    translation.take_flag(*row, value);
  }
  return translation.finish(model_given);
}

}  // namespace kt::app
