#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/suggest.h"
#include "placement/layer_path.h"
#include "placement/regex.h"
#include "placement/rule_errors.h"
#include "placement/rules.h"

namespace kt::placement {
namespace {

using operators::KwargRow;
using operators::KwargType;
using operators::OperatorRow;
using operators::Placement;
using operators::Value;

const KwargRow* kwarg_row(std::string_view name) {
  for (const KwargRow& row : operators::kwarg_rows()) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

std::string show(const Value& value) {
  if (std::holds_alternative<std::monostate>(value)) return "None";
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "True" : "False";
  if (const auto* whole = std::get_if<std::int64_t>(&value)) return std::to_string(*whole);
  if (const auto* real = std::get_if<double>(&value)) return fmt::format("{}", *real);
  if (const auto* text = std::get_if<std::string>(&value)) return shortened(*text);
  return "a mapping";
}

bool is_none(const Value& value) {
  const auto* text = std::get_if<std::string>(&value);
  return std::holds_alternative<std::monostate>(value) || (text != nullptr && *text == "None");
}

// Steps of all regular expressions of a file together. The largest templates take under a tenth.
constexpr std::int64_t kRegexBudget = 50'000'000;

class Applier {
 public:
  Applier(const RuleFile& file, const RuleContext& context)
      : file_(file),
        context_(context),
        errors_(file.path, file.text),
        tree_(context.foreign != nullptr ? context.foreign->nodes : module_tree(context.config)),
        placement_(context.catalogue) {}

  RuleResult run() {
    placement_.devices = context_.devices;
    placement_.default_entry.device = context_.default_device;
    placement_.default_entry.reason = "no rule";
    for (const Rule& rule : file_.rules) {
      regexes_.push_back(rule.name ? std::optional<Regex>(rule.name->value) : std::nullopt);
      matches_.push_back(0);
    }
    check_match_classes();
    std::string closed;  // path below which modules are not visited
    decided_by_.assign(tree_.size(), RuleResult::kNoRule);
    for (std::size_t i = 0; i < tree_.size(); ++i) {
      const ModuleNode& node = tree_[i];
      if (!closed.empty() && node.path.starts_with(closed)) {
        decided_by_[i] = RuleResult::kNotVisited;
        continue;
      }
      closed.clear();
      const Rule* rule = first_match(node);
      if (rule == nullptr) continue;
      decided_by_[i] = static_cast<int>(rule - file_.rules.data());
      place(*rule, node);
      if (!rule->recursive) closed = node.path + ".";
    }
    for (std::size_t i = 0; i < matches_.size(); ++i) {
      if (matches_[i] == 0) warn_unmatched(i);
    }
    errors_.raise();
    return {std::move(placement_), errors_.warnings(), std::move(decided_by_)};
  }

 private:
  bool name_matches(std::size_t rule, const ModuleNode& node) {
    if (!regexes_[rule]) return true;
    try {
      if (regexes_[rule]->search(node.path, regex_budget_)) return true;
      return node.is_native && node.stands_for != node.path &&
             regexes_[rule]->search(node.stands_for, regex_budget_);
    } catch (const Error& e) {
      errors_.error(file_.rules[rule].name->at, e.what());
      errors_.raise();
      throw;
    }
  }
  bool class_matches(std::size_t rule, const ModuleNode& node) const {
    const auto& wanted = file_.rules[rule].match_class;
    return !wanted ||
           std::find(node.classes.begin(), node.classes.end(), wanted->value) != node.classes.end();
  }

  const Rule* first_match(const ModuleNode& node) {
    for (std::size_t i = 0; i < file_.rules.size(); ++i) {
      if (!class_matches(i, node) || !name_matches(i, node)) continue;
      ++matches_[i];
      return &file_.rules[i];
    }
    return nullptr;
  }

  void check_match_classes() {
    const std::vector<std::string> known = known_module_classes();
    for (const Rule& rule : file_.rules) {
      if (!rule.match_class) continue;
      const std::string& name = rule.match_class->value;
      if (context_.foreign != nullptr && !context_.foreign->missing.contains(name)) continue;
      if (std::binary_search(known.begin(), known.end(), name)) continue;
      const auto near = errors_.enough() ? std::nullopt : nearest(name, known);
      errors_.error(rule.match_class->at, missing_class("module", name),
                    near ? fmt::format("did you mean {}?", *near) : "");
    }
  }

  void warn_unmatched(std::size_t i) {
    const Rule& rule = file_.rules[i];
    std::string named, classed, both;  // a module that has the name, the class, both
    for (const ModuleNode& node : tree_) {
      const bool name = rule.name && name_matches(i, node);
      const bool of_class = rule.match_class && class_matches(i, node);
      if (name && named.empty()) named = node.path;
      if (of_class && classed.empty()) classed = node.path;
      if (both.empty() && (name || !rule.name) && (of_class || !rule.match_class)) both = node.path;
    }
    std::string hint;
    if (!both.empty()) {
      hint = "the modules it fits are taken by the rules above it";
    } else if (!named.empty()) {
      hint = fmt::format("'{}' has this name, but no module of that name is of that class", named);
    } else if (!classed.empty()) {
      hint = fmt::format("'{}' is of this class, but no module of it has such a name", classed);
    }
    errors_.warning(rule.at, "this rule decides no module of this model", hint);
  }

  // ---- one module

  // What is the same for all modules that a rule decides.
  struct Checked {
    operators::Kwargs kwargs;
    const OperatorRow* row = nullptr;  // null: class `default`, or one that does not exist
    bool has_device = false;
  };
  const Checked& check(const Rule& rule) {
    const auto [it, is_new] = checked_.try_emplace(&rule);
    Checked& checked = it->second;
    if (!is_new) return checked;
    for (const Kwarg& kwarg : rule.kwargs) {
      // A class of another program may have keyword arguments of its own.
      if (is_foreign(rule) && kwarg_row(kwarg.name.value) == nullptr) continue;
      if (!check_kwarg(kwarg)) continue;
      checked.kwargs[kwarg.name.value] = kwarg.value;
      checked.has_device |= kwarg.name.value == "generate_device" && !is_none(kwarg.value);
    }
    if (rule.replace_class.value != "default") checked.row = find_class(rule);
    return checked;
  }

  void place(const Rule& rule, const ModuleNode& node) {
    const Checked& checked = check(rule);
    const OperatorRow* row = checked.row;
    Placement::Entry entry;
    entry.reason = fmt::format("rule, line {}", rule.at.line);
    entry.kwargs = checked.kwargs;
    if (rule.replace_class.value != "default") {
      if (row == nullptr || !check_kind(rule, *row, node))
        return;  // another program's, or an error
    } else if (node.has_weights && !checked.has_device) {
      errors_.error(
          rule.replace_class.at,
          fmt::format("class 'default' without generate_device, on '{}', which has weights",
                      node.path),
          "add kwargs: {generate_device: …}");
      return;
    }
    const std::string fallback =
        node.kind == "Experts" && row != nullptr ? "cpu" : context_.default_device;
    entry.device = device_of(rule, "generate_device", fallback);
    entry.prefill_device = device_of(rule, "prefill_device", entry.device);
    if (row != nullptr) choose_operators(rule, *row, node, entry);
    check_taken(rule, row, entry);
    if (node.kind == "Experts") check_slots(rule, node, entry);
    if (node.kind == "Decoder") read_model_kwargs(rule, entry);
    store(rule, node, std::move(entry));
  }

  void store(const Rule& rule, const ModuleNode& node, Placement::Entry entry) {
    if (node.is_native) {
      placement_.entries[node.stands_for] = std::move(entry);
      return;
    }
    if (node.kind ==
        "Rotary") {  // one table serves all layers: its own rule, else the first layer's
      placement_.entries.try_emplace(node.stands_for, std::move(entry));
      return;
    }
    if (node.kind == "Linear" && !entry.op.empty()) {
      errors_.warning(rule.replace_class.at, fmt::format("no effect on '{}'", node.path),
                      "latent attention reads these weights itself");
    }
  }

  // Whether another program provides the class.
  bool is_foreign(const Rule& rule) const {
    return context_.foreign != nullptr &&
           context_.foreign->operators.contains(rule.replace_class.value);
  }

  // "no module class 'a.B'", with the reason of the program that has the tree.
  std::string missing_class(std::string_view what, const std::string& name) const {
    std::string text = fmt::format("no {} class '{}'", what, shortened(name));
    if (context_.foreign == nullptr) return text;
    const auto why = context_.foreign->missing.find(name);
    return why == context_.foreign->missing.end() ? text : text + ": " + shortened(why->second);
  }

  const OperatorRow* find_class(const Rule& rule) {
    const std::string& name = rule.replace_class.value;
    const OperatorRow* row =
        name.find('.') == std::string::npos ? nullptr : context_.catalogue->find(name);
    if (row != nullptr) return row;
    if (is_foreign(rule)) return context_.catalogue->find(context_.foreign->operators.at(name));
    if (const std::string_view why = operators::refused_class(name); !why.empty()) {
      errors_.error(rule.replace_class.at,
                    fmt::format("no operator class '{}': {}", shortened(name), why));
      return nullptr;
    }
    std::vector<std::string> known;
    for (const OperatorRow& r : context_.catalogue->rows()) known.push_back(r.class_path());
    auto near = nearest(name, known);
    if (const OperatorRow* bare = context_.catalogue->find(name.substr(name.rfind('.') + 1))) {
      near = bare->class_path();
    }
    errors_.error(
        rule.replace_class.at, missing_class("operator", name),
        near ? fmt::format("did you mean {}?", *near)
             : fmt::format("docs/rules.md lists the classes; {}",
                           context_.foreign != nullptr ? "your own are imported by their path"
                                                       : "--plugin adds your own"));
    return nullptr;
  }

  bool check_kind(const Rule& rule, const OperatorRow& row, const ModuleNode& node) {
    const bool router_product = node.kind == "Gate" && row.kind == "Linear";
    if (row.kind != node.kind && !router_product) {
      std::string fitting;
      for (const OperatorRow& r : context_.catalogue->rows()) {
        if (r.kind == node.kind && r.fits(context_.config.architecture)) {
          fitting = r.class_path();
          break;
        }
      }
      errors_.error(rule.replace_class.at,
                    fmt::format("{} replaces modules of kind {}, but '{}' is of kind {}", row.name,
                                row.kind, node.path, node.kind),
                    fitting.empty() ? "match other modules" : fmt::format("{} would fit", fitting));
      return false;
    }
    if (row.fits(context_.config.architecture)) return true;
    errors_.error(rule.replace_class.at,
                  fmt::format("{} is for {}; this model is of type {}", row.name,
                              join(row.families), context_.config.architecture));
    return false;
  }

  void choose_operators(const Rule& rule, const OperatorRow& row, const ModuleNode& node,
                        Placement::Entry& entry) {
    if (const std::string_view less = operators::reduced_class(row.class_path()); !less.empty()) {
      errors_.warning(rule.replace_class.at, fmt::format("{}: {}", row.name, less));
    }
    entry.rule_class = row.name;
    entry.op = row.name;
    if (row.is_wrapper()) {
      entry.op = op_of(rule, "generate_op", row, default_op(row, entry.device));
      entry.prefill_op = op_of(rule, "prefill_op", row, "");
    }
    const OperatorRow* op = context_.catalogue->find(entry.op);
    if (op != nullptr && !op->runs_on(entry.device)) {
      errors_.error(position_of(rule, "generate_device"),
                    fmt::format("{} runs on {}, not on '{}' ('{}')", entry.op, join(op->devices),
                                entry.device, node.path));
    }
    const OperatorRow* prefill = context_.catalogue->find(entry.prefill_op);
    if (prefill != nullptr && !prefill->runs_on(entry.prefill_device)) {
      errors_.error(position_of(rule, "prefill_device"),
                    fmt::format("{} runs on {}, not on '{}' ('{}')", entry.prefill_op,
                                join(prefill->devices), entry.prefill_device, node.path));
    }
    // The model's own rule came before: parents are visited first.
    if (prefill != nullptr && entry.prefill_op != entry.op && placement_.layer_wise_threshold > 0 &&
        split_layer(node.path).number < 0) {
      errors_.warning(position_of(rule, "prefill_op"),
                      fmt::format("prefill_op never runs on '{}'", node.path),
                      "layer-wise prefill changes operators inside the layers only");
    }
  }

  // What a wrapper runs when the rule does not say: the original's defaults, and its CPU operator
  // on the CPU.
  static std::string default_op(const OperatorRow& wrapper, const std::string& device) {
    if (wrapper.kind == "Experts") return device == "cpu" ? "KExpertsCPU" : "KExpertsMarlin";
    return device == "cpu" ? "KLinearCPUInfer" : "KLinearMarlin";
  }

  std::string op_of(const Rule& rule, std::string_view key, const OperatorRow& wrapper,
                    std::string fallback) {
    const Kwarg* kwarg = find(rule, key);
    if (kwarg == nullptr || is_none(kwarg->value)) return fallback;
    const auto* name = std::get_if<std::string>(&kwarg->value);
    if (name == nullptr) return fallback;  // reported by check_kwarg
    const OperatorRow* row = context_.catalogue->find(*name);
    if (row != nullptr && row->kind == wrapper.kind && !row->is_wrapper()) return *name;
    if (const std::string_view why = operators::refused_class(*name);
        row == nullptr && !why.empty()) {
      errors_.error(kwarg->at, fmt::format("no operator '{}': {}", shortened(*name), why));
      return fallback;
    }
    std::vector<std::string> known;
    for (const OperatorRow& r : context_.catalogue->rows()) {
      if (r.kind == wrapper.kind && !r.is_wrapper()) {
        known.push_back(r.from_plugin ? r.class_path() : r.name);
      }
    }
    const auto near = nearest(*name, known);
    errors_.error(
        kwarg->at, fmt::format("{}: no {} operator '{}'", key, wrapper.kind, shortened(*name)),
        near ? fmt::format("did you mean {}?", *near) : fmt::format("there are {}", join(known)));
    return fallback;
  }

  // ---- keyword arguments

  static const Kwarg* find(const Rule& rule, std::string_view name) {
    for (const Kwarg& kwarg : rule.kwargs) {
      if (kwarg.name.value == name) return &kwarg;
    }
    return nullptr;
  }
  static Position position_of(const Rule& rule, std::string_view kwarg) {
    const Kwarg* found = find(rule, kwarg);
    return found != nullptr ? found->at : rule.replace_class.at;
  }

  bool known_to_plugin(std::string_view name) const {
    const auto& rows = context_.catalogue->rows();
    return std::any_of(rows.begin(), rows.end(),
                       [&](const OperatorRow& r) { return r.from_plugin && r.takes(name); });
  }

  bool check_kwarg(const Kwarg& kwarg) {
    const KwargRow* row = kwarg_row(kwarg.name.value);
    if (row == nullptr) {
      if (known_to_plugin(kwarg.name.value)) return true;
      std::vector<std::string> known;
      for (const KwargRow& r : operators::kwarg_rows()) known.emplace_back(r.name);
      const auto near = nearest(kwarg.name.value, known);
      errors_.error(
          kwarg.name.at, fmt::format("no operator takes '{}'", shortened(kwarg.name.value)),
          near ? fmt::format("did you mean '{}'?", *near) : "docs/rules.md lists the kwargs");
      return false;
    }
    if (is_none(kwarg.value)) return true;
    const bool allowed = row->values.empty() || std::find(row->values.begin(), row->values.end(),
                                                          show(kwarg.value)) != row->values.end();
    std::string wanted;
    switch (row->type) {
      case KwargType::kDevice:
        // A device that has an effect is checked, with more to say, where it is used.
        if (const auto* name = std::get_if<std::string>(&kwarg.value);
            name == nullptr ||
            (!row->has_effect && *name != "cpu" && !operators::gpu_index(*name))) {
          wanted = "a device: cpu, cuda or cuda:N";
        }
        break;
      case KwargType::kOperator:
        if (!std::holds_alternative<std::string>(kwarg.value)) wanted = "the name of an operator";
        break;
      case KwargType::kChoice:
        if (!std::holds_alternative<std::string>(kwarg.value) || !allowed)
          wanted = join(row->values);
        break;
      case KwargType::kWhole:
        if (!std::holds_alternative<std::int64_t>(kwarg.value) || !allowed) {
          wanted = row->values.empty() ? "a whole number" : join(row->values);
        }
        break;
      case KwargType::kFlag:
        if (!std::holds_alternative<bool>(kwarg.value)) wanted = "True or False";
        if (wanted.empty() && !allowed) wanted = join(row->values);
        break;
      case KwargType::kDeviceMap:
        if (!std::holds_alternative<std::map<std::int64_t, std::string>>(kwarg.value)) {
          wanted = "a mapping {layer: device}";
        }
        break;
    }
    if (wanted.empty()) return true;
    errors_.error(kwarg.at,
                  fmt::format("{} is {}, wanted {}", row->name, show(kwarg.value), wanted));
    return false;
  }

  void check_taken(const Rule& rule, const OperatorRow* row, const Placement::Entry& entry) {
    if (is_foreign(rule)) return;
    for (const Kwarg& kwarg : rule.kwargs) {
      const std::string& name = kwarg.name.value;
      const auto takes = [&](const OperatorRow* r) { return r != nullptr && r->takes(name); };
      const auto* prefill = context_.catalogue->find(entry.prefill_op);
      if (name == "generate_device" || name == "prefill_device" || takes(row) ||
          takes(context_.catalogue->find(entry.op)) || takes(prefill)) {
        continue;
      }
      errors_.warning(kwarg.name.at,
                      fmt::format("{} does not take '{}': it has no effect",
                                  row == nullptr ? "class 'default'" : row->name, shortened(name)));
    }
  }

  // Experts of the CPU have slots on the GPU of their block, whose rule came before.
  void check_slots(const Rule& rule, const ModuleNode& node, const Placement::Entry& entry) {
    const Kwarg* kwarg = find(rule, "gpu_experts");
    if (kwarg == nullptr || is_none(kwarg->value) || entry.device != "cpu") return;
    if (context_.foreign != nullptr || context_.devices.emulated) return;
    const std::string block = node.stands_for.substr(0, node.stands_for.rfind('.'));
    if (operators::gpu_index(placement_.at(block).device)) return;
    errors_.warning(kwarg->name.at,
                    fmt::format("gpu_experts has no effect on '{}': '{}' is on the CPU",
                                node.stands_for, block),
                    "a rule for the block with generate_device: cuda:N gives it a GPU");
  }

  std::string device_of(const Rule& rule, std::string_view key, const std::string& fallback) {
    const Kwarg* kwarg = find(rule, key);
    if (kwarg == nullptr || is_none(kwarg->value)) return fallback;
    const auto* name = std::get_if<std::string>(&kwarg->value);
    return name == nullptr ? fallback : check_device(*name, kwarg->at, fallback);
  }

  std::string check_device(const std::string& name, Position at, const std::string& fallback) {
    if (name == "cpu") return name;
    const std::string_view type = operators::device_type(name);
    const int n_gpus = context_.devices.n_gpus;
    const std::optional<int> index = operators::gpu_index(name);
    if (index && *index < n_gpus) return operators::gpu_name(*index);
    if (type == "xpu" || type == "npu") {
      errors_.error(at, fmt::format("device '{}': there is no backend for it yet", shortened(name)),
                    "this build computes on cpu");
    } else if (index) {
      errors_.error(at,
                    fmt::format("device '{}' does not exist: there {}", name,
                                n_gpus == 0 ? std::string("is no GPU here, only cpu")
                                            : fmt::format("are cpu and {} GPU{}, from cuda:0 on",
                                                          n_gpus, n_gpus == 1 ? "" : "s")),
                    fmt::format(fmt::runtime(context_.gpu_hint), std::int64_t{*index} + 1));
    } else {
      const auto near = nearest(name, {"cpu", "cuda", "cuda:0"});
      errors_.error(
          at, fmt::format("no device '{}'", shortened(name)),
          near ? fmt::format("did you mean {}?", *near) : "devices are cpu, cuda, cuda:N");
    }
    return fallback;
  }

  void read_model_kwargs(const Rule& rule, Placement::Entry& entry) {
    if (const Kwarg* k = find(rule, "per_layer_prefill_intput_threshold")) {
      if (const auto* n = std::get_if<std::int64_t>(&k->value)) {
        if (*n < 0) errors_.error(k->at, "per_layer_prefill_intput_threshold is negative");
        placement_.layer_wise_threshold = *n;
      }
    }
    if (const Kwarg* k = find(rule, "device")) {
      if (const auto* name = std::get_if<std::string>(&k->value)) {
        entry.device = check_device(*name, k->at, entry.device);
      }
    }
    const Kwarg* k = find(rule, "transfer_map");
    if (k == nullptr) return;
    if (const auto* map = std::get_if<std::map<std::int64_t, std::string>>(&k->value)) {
      for (const auto& [layer, device] : *map) {
        check_device(device, k->at, "cpu");
        if (layer >= context_.config.n_layers) {
          errors_.warning(
              k->at, fmt::format("transfer_map: layer {} does not exist, the model has {}", layer,
                                 context_.config.n_layers));
        }
      }
    }
  }

  const RuleFile& file_;
  const RuleContext& context_;
  RuleErrors errors_;
  std::vector<ModuleNode> tree_;
  std::vector<std::optional<Regex>> regexes_;
  std::vector<std::int64_t> matches_;
  std::vector<int> decided_by_;
  std::map<const Rule*, Checked> checked_;
  std::int64_t regex_budget_ = kRegexBudget;
  Placement placement_;
};

}  // namespace

RuleResult apply_rules(const RuleFile& file, const RuleContext& context) {
  return Applier(file, context).run();
}

}  // namespace kt::placement
