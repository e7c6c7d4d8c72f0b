#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/suggest.h"
#include "io/mmap_file.h"
#include "placement/regex.h"
#include "placement/rule_errors.h"
#include "placement/rules.h"

namespace kt::placement {
namespace {

using operators::Value;

constexpr std::size_t kMaxFile = std::size_t{1} << 20;
constexpr std::size_t kMaxRules = 4096;
constexpr std::size_t kMaxKwargs = 64;

Position position_of(const YAML::Mark& mark) {
  return mark.is_null() ? Position{} : Position{mark.line + 1, mark.column + 1};
}

std::string_view type_name(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Undefined: return "nothing";
    case YAML::NodeType::Null: return "nothing";
    case YAML::NodeType::Scalar: return "a single value";
    case YAML::NodeType::Sequence: return "a list";
    case YAML::NodeType::Map: return "a mapping";
  }
  return "something else";
}

// A scalar as YAML 1.1 (and so the original) reads it; quoted text stays text.
Value scalar_value(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  if (node.Tag() == "!") return text;
  if (node.IsNull() || text == "None") return std::monostate{};
  for (const char* yes : {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"}) {
    if (text == yes) return true;
  }
  for (const char* no : {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"}) {
    if (text == no) return false;
  }
  std::int64_t whole = 0;
  const char* end = text.data() + text.size();
  if (const auto r = std::from_chars(text.data(), end, whole);
      r.ec == std::errc() && r.ptr == end) {
    return whole;
  }
  double real = 0.0;
  if (YAML::convert<double>::decode(node, real) && std::isfinite(real)) return real;
  return text;
}

// Where the documents of a text begin.
class DocumentStarts : public YAML::EventHandler {
 public:
  const YAML::Mark& last() const { return last_; }
  void OnDocumentStart(const YAML::Mark& mark) override { last_ = mark; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

 private:
  YAML::Mark last_;
};

void check_size(std::size_t size, const std::string& path) {
  if (size <= kMaxFile) return;
  fail(ErrorCode::kBadFile, path, "{} bytes are no rule file; at most {} are read", size, kMaxFile);
}

class Parser {
 public:
  Parser(RuleFile& file, const operators::Catalogue* only)
      : file_(file), only_(only), errors_(file.path, file.text) {}

  void run() {
    YAML::Node root;
    try {
      root = YAML::Load(file_.text);
      check_single_document();
    } catch (const YAML::Exception& e) {
      errors_.error(position_of(e.mark), "not YAML: " + e.msg);
      errors_.raise();
    }
    if (!root.IsSequence() || root.size() == 0) {
      errors_.error(position_of(root.Mark()),
                    fmt::format("found {}, wanted a list of rules", type_name(root)),
                    "each rule begins with '- match:'");
      errors_.raise();
    }
    for (const YAML::Node& node : root) {
      if (file_.rules.size() == kMaxRules) {
        errors_.error(position_of(node.Mark()), fmt::format("more than {} rules", kMaxRules));
        break;
      }
      rule(node);
    }
    errors_.raise();
  }

 private:
  // The library's own loop over documents does not end on some malformed text; this reads two.
  void check_single_document() {
    std::istringstream text(file_.text);
    YAML::Parser parser(text);
    DocumentStarts starts;
    if (!parser.HandleNextDocument(starts) || !parser.HandleNextDocument(starts)) return;
    errors_.error(position_of(starts.last()), "more text after the list of rules",
                  "a rule file is one YAML document: one list");
    errors_.raise();
  }

  using Keys = std::map<std::string, YAML::Node>;

  // The entries of a mapping, after checking that it is one and that its keys are known, once each.
  Keys keys(const YAML::Node& node, std::string_view what, const std::vector<std::string>& known) {
    Keys found;
    if (!node.IsMap()) {
      errors_.error(position_of(node.Mark()), fmt::format("{} is {}, wanted a mapping with {}",
                                                          what, type_name(node), join(known)));
      return found;
    }
    for (const auto& entry : node) {
      const YAML::Node &key = entry.first, &value = entry.second;
      const Position at = position_of(key.Mark());
      if (!key.IsScalar()) {
        errors_.error(at, fmt::format("a key of {} is {}, wanted a name", what, type_name(key)));
        continue;
      }
      const std::string& name = key.Scalar();
      if (!known.empty() && std::find(known.begin(), known.end(), name) == known.end()) {
        const auto near = nearest(name, known);
        errors_.error(at, fmt::format("unknown key '{}' in {}", shortened(name), what),
                      near ? fmt::format("did you mean '{}'?", *near)
                           : fmt::format("known: {}", join(known)));
        continue;
      }
      if (!found.emplace(name, value).second) {
        errors_.error(at, fmt::format("key '{}' twice in {}", shortened(name), what));
      }
    }
    return found;
  }

  void rule(const YAML::Node& node) {
    Rule rule;
    rule.at = position_of(node.Mark());
    const Keys parts = keys(node, "a rule", {"match", "replace", "recursive"});
    if (!node.IsMap()) return;
    if (const auto it = parts.find("match"); it != parts.end()) {
      match(it->second, rule);
    } else {
      errors_.error(rule.at, "a rule without 'match'", "say which modules: match: {name: …}");
    }
    if (const auto it = parts.find("replace"); it != parts.end()) {
      replace(it->second, rule);
    } else {
      errors_.error(rule.at, "a rule without 'replace'",
                    "say what they become: replace: {class: …, kwargs: {…}}");
    }
    if (const auto it = parts.find("recursive"); it != parts.end()) {
      const Value value = it->second.IsScalar() ? scalar_value(it->second) : Value(0.0);
      const bool* flag = std::get_if<bool>(&value);
      if (flag == nullptr) {
        errors_.error(position_of(it->second.Mark()), "'recursive' is neither True nor False");
      } else {
        rule.recursive = *flag;
      }
    }
    file_.rules.push_back(std::move(rule));
  }

  void match(const YAML::Node& node, Rule& rule) {
    const Keys parts = keys(node, "'match'", {"name", "class"});
    if (!node.IsMap()) return;
    if (parts.empty()) {
      errors_.error(position_of(node.Mark()), "'match' has neither 'name' nor 'class'");
    }
    if (const auto it = parts.find("name"); it != parts.end()) {
      rule.name = text(it->second, "match.name");
      if (rule.name) check_regex(*rule.name);
    }
    if (const auto it = parts.find("class"); it != parts.end()) {
      rule.match_class = text(it->second, "match.class");
    }
  }

  void check_regex(const Text& pattern) {
    try {
      const Regex regex(pattern.value);
    } catch (const Error& e) {
      errors_.error(pattern.at, e.what());
    }
  }

  void replace(const YAML::Node& node, Rule& rule) {
    const Keys parts = keys(node, "'replace'", {"class", "kwargs", "device"});
    if (const auto it = parts.find("class"); it != parts.end()) {
      if (const auto name = text(it->second, "replace.class")) rule.replace_class = *name;
    } else {
      rule.replace_class.at = position_of(node.Mark());
    }
    // `device` had a meaning in the first versions of the original only; it is read and ignored.
    const auto it = parts.find("kwargs");
    if (it == parts.end() || it->second.IsNull()) return;
    const std::string& name = rule.replace_class.value;
    const bool foreign = only_ != nullptr && name != "default" && only_->find(name) == nullptr;
    if (foreign && !it->second.IsMap()) return;
    if (!it->second.IsMap()) keys(it->second, "'kwargs'", {});
    if (!it->second.IsMap()) return;
    if (it->second.size() > kMaxKwargs) {
      errors_.error(position_of(it->second.Mark()), fmt::format("more than {} kwargs", kMaxKwargs));
      return;
    }
    std::set<std::string> seen;
    for (const auto& entry : it->second) {
      if (foreign && !(entry.first.IsScalar() && entry.second.IsScalar())) continue;
      kwarg(entry.first, entry.second, seen, rule);
    }
  }

  void kwarg(const YAML::Node& key, const YAML::Node& value, std::set<std::string>& seen,
             Rule& rule) {
    const Position at = position_of(key.Mark());
    if (!key.IsScalar()) {
      errors_.error(at, fmt::format("a key of 'kwargs' is {}, wanted a name", type_name(key)));
      return;
    }
    if (!seen.insert(key.Scalar()).second) {
      errors_.error(at, fmt::format("kwarg '{}' twice", shortened(key.Scalar())));
      return;
    }
    Kwarg kwarg{{key.Scalar(), at}, {}, position_of(value.Mark())};
    if (value.IsScalar() || value.IsNull()) {
      kwarg.value = scalar_value(value);
    } else if (value.IsMap()) {
      kwarg.value = device_map(value, key.Scalar());
    } else {
      errors_.error(kwarg.at, fmt::format("kwarg '{}' is {}, wanted a single value",
                                          shortened(key.Scalar()), type_name(value)));
      return;
    }
    rule.kwargs.push_back(std::move(kwarg));
  }

  // {layer: device}
  Value device_map(const YAML::Node& node, const std::string& name) {
    std::map<std::int64_t, std::string> map;
    for (const auto& entry : node) {
      const YAML::Node &key = entry.first, &value = entry.second;
      const Value layer = key.IsScalar() ? scalar_value(key) : Value();
      const auto* number = std::get_if<std::int64_t>(&layer);
      if (number == nullptr || *number < 0 || !value.IsScalar()) {
        errors_.error(
            position_of(key.Mark()),
            fmt::format("kwarg '{}' wants entries 'layer number: device'", shortened(name)));
        continue;
      }
      if (!map.emplace(*number, value.Scalar()).second) {
        errors_.error(position_of(key.Mark()), fmt::format("layer {} twice", *number));
      }
    }
    return map;
  }

  std::optional<Text> text(const YAML::Node& node, std::string_view what) {
    const Position at = position_of(node.Mark());
    if (!node.IsScalar()) {
      errors_.error(at, fmt::format("'{}' is {}, wanted text", what, type_name(node)));
      return std::nullopt;
    }
    return Text{node.Scalar(), at};
  }

  RuleFile& file_;
  const operators::Catalogue* only_;
  RuleErrors errors_;
};

}  // namespace

RuleFile parse_rules(std::string text, const std::string& path, const operators::Catalogue* only) {
  RuleFile file{path, std::move(text), {}};
  check_size(file.text.size(), path);
  if (file.text.find('\0') != std::string::npos) {
    fail(ErrorCode::kBadFile, path, "a binary file is no rule file");
  }
  Parser(file, only).run();
  return file;
}

RuleResult read_rules(const std::string& path, const RuleContext& context) {
  const io::MmapFile mapped(path);
  check_size(mapped.size(), path);  // before it is copied
  std::string text(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.size());
  return apply_rules(parse_rules(std::move(text), path), context);
}

}  // namespace kt::placement
