#include "operators/catalogue.h"

#include <algorithm>
#include <charconv>
#include <span>

#include "operators/makers.h"

namespace kt::operators {
namespace {

constexpr std::string_view kPackage = "ktransformers.operators.";
constexpr Wrapper kWrapper;
constexpr Structural kStructural;

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (end > 0) list.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return list;
}

bool contains(const std::vector<std::string>& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

}  // namespace

std::string_view device_type(std::string_view device) { return device.substr(0, device.find(':')); }

std::optional<int> gpu_index(std::string_view device) {
  if (device == "cuda") return 0;
  if (!device.starts_with("cuda:")) return std::nullopt;
  int index = 0;
  const char* end = device.data() + device.size();
  const auto r = std::from_chars(device.data() + 5, end, index);
  return r.ec == std::errc() && r.ptr == end && index >= 0 ? std::optional(index) : std::nullopt;
}

std::string gpu_name(int index) { return fmt::format("cuda:{}", index); }

Placement::Placement() : Placement(std::make_shared<Catalogue>()) {}

Placement::Placement(std::shared_ptr<const Catalogue> operators) : catalogue(std::move(operators)) {
  default_entry.reason = "default";
}

std::string OperatorRow::class_path() const {
  return from_plugin ? module + "." + name : std::string(kPackage) + module + "." + name;
}

bool OperatorRow::runs_on(std::string_view device) const {
  return contains(devices, device_type(device));
}

bool OperatorRow::fits(std::string_view model_type) const {
  return families.empty() || contains(families, model_type);
}

bool OperatorRow::takes(std::string_view kwarg) const {
  return kwarg == "generate_device" || kwarg == "prefill_device" || contains(kwargs, kwarg);
}

Catalogue::Catalogue() {
  const auto row = [&](std::string_view module, std::string_view name, std::string_view kind,
                       std::string_view devices, std::string_view families, std::string_view kwargs,
                       Maker maker) {
    rows_.push_back({std::string(module), std::string(name), std::string(kind), words(devices),
                     families == "*" ? std::vector<std::string>{} : words(families), words(kwargs),
                     std::move(maker)});
  };
#define OPERATOR(module, name, kind, devices, families, kwargs, maker) \
  row(#module, #name, #kind, devices, families, kwargs, maker);
#include "operators/operators.inc"
#undef OPERATOR
}

void Catalogue::add(OperatorRow row) {
  row.from_plugin = true;
  if (find(row.class_path()) != nullptr) {
    fail(ErrorCode::kUsage, "--plugin", "there is already an operator class '{}'",
         row.class_path());
  }
  rows_.push_back(std::move(row));
}

const OperatorRow* Catalogue::find(std::string_view class_path_or_name) const {
  for (const OperatorRow& row : rows_) {
    if (row.name == class_path_or_name || row.class_path() == class_path_or_name) return &row;
  }
  return nullptr;
}

namespace {

using Note = std::pair<std::string_view, std::string_view>;  // {class path, text}

// By class path, or by its last word.
std::string_view find_note(std::span<const Note> notes, std::string_view class_path) {
  if (class_path.starts_with(kPackage)) class_path.remove_prefix(kPackage.size());
  for (const auto& [name, text] : notes) {
    if (name == class_path || name.substr(name.rfind('.') + 1) == class_path) return text;
  }
  return {};
}

}  // namespace

std::string_view reduced_class(std::string_view class_path) {
  constexpr Note kReduced[] = {
#define REFUSED(name, why)
#define REDUCED(name, what) {name, what},
#include "operators/refused.inc"
#undef REDUCED
#undef REFUSED
  };
  return find_note(kReduced, class_path);
}

std::string_view refused_class(std::string_view class_path) {
  constexpr Note kRefused[] = {
#define REFUSED(name, why) {name, why},
#define REDUCED(name, what)
#include "operators/refused.inc"
#undef REDUCED
#undef REFUSED
  };
  return find_note(kRefused, class_path);
}

const std::vector<PlannedRow>& planned_rows() {
  static const std::vector<PlannedRow> kRows = {
#define PLANNED(name, ...) {#name, {__VA_ARGS__}},
#include "operators/planned.inc"
#undef PLANNED
  };
  return kRows;
}

const std::vector<KwargRow>& kwarg_rows() {
  constexpr bool kUsed = true, kAccepted = false;
  using enum KwargType;
  static const std::vector<KwargRow> kRows = {
#define KWARG(name, type, values, effect, meaning) {#name, type, words(values), effect, meaning},
#include "operators/kwargs.inc"
#undef KWARG
  };
  return kRows;
}

}  // namespace kt::operators
