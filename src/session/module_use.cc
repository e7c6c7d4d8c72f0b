#include "session/module_use.h"

#include "operators/module.h"

namespace kt::session {
namespace {

constexpr std::size_t kZones = std::size_t{1} << 16;  // of one step
constexpr std::size_t kMaxSteps = 4096;
constexpr std::chrono::seconds kWindow{60};

}  // namespace

ModuleMeter::ModuleMeter(std::vector<placement::ExplainRow> rows)
    : rows_(std::move(rows)), trace_(kZones) {
  for (std::size_t i = 0; i < rows_.size(); ++i) index_[rows_[i].path] = i;
}

void ModuleMeter::add(double seconds) {
  Step step{std::chrono::steady_clock::now(), seconds, std::vector<float>(rows_.size())};
  for (const operators::Trace::Zone& zone : trace_.zones()) {
    const auto it = index_.find(zone.module->path());
    if (it == index_.end()) continue;
    step.modules[it->second] += static_cast<float>(zone.end - zone.begin) * 1e-9f;
  }
  trace_.clear();
  while (!steps_.empty() &&
         (steps_.size() >= kMaxSteps || step.when - steps_.front().when > kWindow)) {
    steps_.pop_front();
  }
  steps_.push_back(std::move(step));
}

std::vector<ModuleUse> ModuleMeter::modules() const {
  std::vector<ModuleUse> all;
  for (const placement::ExplainRow& row : rows_) all.push_back({row, -1.0});
  const auto now = std::chrono::steady_clock::now();
  double total = 0.0;
  std::vector<double> sums(rows_.size());
  for (const Step& step : steps_) {
    if (now - step.when > kWindow) continue;
    total += step.seconds;
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += static_cast<double>(step.modules[i]);
  }
  if (total <= 0) return all;
  for (std::size_t i = 0; i < sums.size(); ++i) all[i].share = sums[i] / total;
  return all;
}

}  // namespace kt::session
