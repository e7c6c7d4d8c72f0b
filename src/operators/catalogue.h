// The operators that rules and the planner may choose: the rows of operators.inc, and those that
// plug-ins add. A row says what an operator is called, where it runs, what it takes and how it is
// made. Thread rule: filled before placement, then read only.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "operators/kinds.h"
#include "operators/placement.h"
#include "operators/specs.h"

namespace kt::operators {

class Builder;

template <class Kind, class Spec>
using Make = std::function<std::unique_ptr<Kind>(const Builder& at, const Spec& spec)>;

/// Stands for the operators that its generate_op and prefill_op name.
struct Wrapper {};
/// Built by the model file itself.
struct Structural {};

using Maker =
    std::variant<Wrapper, Structural, Make<Linear, LinearSpec>, Make<Embedding, EmbeddingSpec>,
                 Make<Norm, NormSpec>, Make<Rotary, RotarySpec>, Make<Gate, GateSpec>,
                 Make<Experts, ExpertsSpec>, Make<Mlp, MlpSpec>, Make<Mlp, MoeSpec>,
                 Make<Attention, GqaSpec>, Make<Attention, MlaSpec>>;

struct OperatorRow {
  std::string module;                 // "linear"; a plug-in's name for its operators
  std::string name;                   // "KLinearMarlin"
  std::string kind;                   // "Linear"
  std::vector<std::string> devices;   // "cpu", "cuda"
  std::vector<std::string> families;  // model types; empty: all
  std::vector<std::string> kwargs;    // generate_device and prefill_device are always taken
  Maker maker;
  std::string class_path() const;  // "ktransformers.operators.linear.KLinearMarlin", as rules write
  bool runs_on(std::string_view device) const;
  bool fits(std::string_view model_type) const;
  bool takes(std::string_view kwarg) const;
  bool is_wrapper() const { return std::holds_alternative<Wrapper>(maker); }
  bool from_plugin = false;
};

class Catalogue {
 public:
  /// What ships.
  Catalogue();
  /// Adds an operator; throws kUsage when its class path is taken.
  void add(OperatorRow row);
  const std::vector<OperatorRow>& rows() const { return rows_; }
  /// By class path, or by bare name ("KLinearTorch"); null when there is none.
  const OperatorRow* find(std::string_view class_path_or_name) const;
  /// First row that makes this kind from this spec (or any when the maker is of no such type) on a
  /// device; null when there is none.
  template <class Kind, class Spec>
  const OperatorRow* first(std::string_view device) const {
    for (const OperatorRow& row : rows_) {
      if (std::holds_alternative<Make<Kind, Spec>>(row.maker) && row.runs_on(device)) return &row;
    }
    return nullptr;
  }

 private:
  std::vector<OperatorRow> rows_;
};

/// What an operator does less than the original's class of this path, or empty.
std::string_view reduced_class(std::string_view class_path);

/// Why a class of the original work is not here, or empty when `class_path` is none of those.
std::string_view refused_class(std::string_view class_path);

/// A way to run modules of a kind on a GPU, which the planner may choose.
struct PlannedRow {
  std::string name;  // of the operator
  Kwargs kwargs;
};
/// The rows of planned.inc.
const std::vector<PlannedRow>& planned_rows();

enum class KwargType { kDevice, kOperator, kChoice, kWhole, kFlag, kDeviceMap };
struct KwargRow {
  std::string_view name;
  KwargType type;
  std::vector<std::string> values;
  bool has_effect;
  std::string_view meaning;
};
/// The rows of kwargs.inc.
const std::vector<KwargRow>& kwarg_rows();

}  // namespace kt::operators
