#include "session/expert_profile.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "io/files.h"
#include "io/gguf.h"
#include "io/mmap_file.h"
#include "io/names.h"
#include "session/imatrix.h"

namespace kt::session {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "kt-expert-uses";
constexpr std::size_t kMaxBytes = std::size_t{64} << 20;

/// Uses a row of layers that are added one by one.
class Reading {
 public:
  Reading(const std::string& path, const io::ModelConfig& config) : path_(path), config_(config) {}

  void add(std::int64_t layer, const std::string& name, const std::vector<double>& uses) {
    if (static_cast<std::int64_t>(uses.size()) != config_.moe.n_experts) {
      fail(ErrorCode::kMismatch, path_, "'{}' counts {} experts, but a layer of the model has {}",
           name, uses.size(), config_.moe.n_experts);
    }
    for (const double n : uses) {
      if (!std::isfinite(n) || n < 0.0)
        fail(ErrorCode::kBadFile, path_, "'{}' holds {}, which is no count", name, n);
    }
    const double rows =
        std::accumulate(uses.begin(), uses.end(), 0.0) / static_cast<double>(config_.moe.n_active);
    std::vector<float>& rates = profile_[layer];
    rates.assign(uses.size(), 0.0f);
    for (std::size_t e = 0; rows > 0.0 && e < uses.size(); ++e)
      rates[e] = static_cast<float>(std::min(uses[e] / rows, 1.0));
  }

  operators::ExpertProfile take() {
    if (profile_.empty())
      fail(ErrorCode::kBadFile, path_, "says of no layer how often its experts are used");
    return std::move(profile_);
  }

 private:
  const std::string& path_;
  const io::ModelConfig& config_;
  operators::ExpertProfile profile_;
};

void read_json(const std::string& path, Reading& to) {
  const Json file = Json::parse(io::read_text_file(path, kMaxBytes), nullptr, false);
  if (!file.is_object() || file.value("format", Json()) != kFormat ||
      !file.value("uses", Json()).is_object()) {
    fail(ErrorCode::kBadFile, path,
         "is no profile of experts: neither saved by --save-expert-profile nor an importance "
         "matrix in GGUF");
  }
  for (const auto& [name, counts] : file["uses"].items()) {
    const auto layer = io::layer_of(name);
    const bool numbers =
        counts.is_array() &&
        std::all_of(counts.begin(), counts.end(), [](const Json& n) { return n.is_number(); });
    if (!layer || !numbers)
      fail(ErrorCode::kBadFile, path, "'{}' is no layer with counts of its experts", name);
    to.add(*layer, name, counts.get<std::vector<double>>());
  }
}

void read_imatrix(const std::string& path, const io::ModelConfig& config, Reading& to) {
  for (const auto& [tensor, counts] : read_counts(path)) {
    const auto canonical = io::canonical_name(config, tensor);
    if (!canonical || canonical->layout != io::NameLayout::kStacked) continue;
    const auto layer = io::layer_of(canonical->before);
    if (layer) to.add(*layer, tensor, {counts.begin(), counts.end()});
  }
}

}  // namespace

operators::ExpertProfile read_expert_profile(const std::string& path,
                                             const io::ModelConfig& config) {
  if (config.moe.n_experts == 0)
    fail(ErrorCode::kUsage, "--expert-profile", "the model has no routed experts");
  Reading reading(path, config);
  if (io::is_gguf(io::MmapFile(path).bytes())) {
    read_imatrix(path, config, reading);
  } else {
    read_json(path, reading);
  }
  return reading.take();
}

std::string expert_uses(operators::Module& model) {
  Json uses = Json::object();
  operators::walk(model, [&](const operators::Module& m) {
    const auto* experts = dynamic_cast<const operators::Experts*>(&m);
    if (experts != nullptr && !experts->uses().empty()) uses[m.path()] = experts->uses();
  });
  if (uses.empty()) {
    fail(ErrorCode::kUnsupported, "--save-expert-profile",
         "the CPU computes no routed experts of this model, and those on GPUs are not counted");
  }
  return Json{{"format", kFormat}, {"uses", std::move(uses)}}.dump() + "\n";
}

}  // namespace kt::session
