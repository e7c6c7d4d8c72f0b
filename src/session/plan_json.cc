#include "session/plan_json.h"

#include <nlohmann/json.hpp>

#include "placement/plan_report.h"
#include "placement/rule_writer.h"

namespace kt::session {
namespace {

nlohmann::ordered_json devices_json(const placement::Plan& plan) {
  nlohmann::ordered_json devices = nlohmann::ordered_json::array();
  for (const placement::DevicePlan& d : plan.devices) {
    nlohmann::ordered_json parts;
    for (int p = 0; p < placement::kParts; ++p) {
      parts[std::string(placement::part_name(static_cast<placement::Part>(p)))] =
          d.parts[static_cast<std::size_t>(p)];
    }
    devices.push_back({{"name", d.name},
                       {"capacity", d.capacity},
                       {"weights", parts},
                       {"cache", d.kv},
                       {"workspace", d.workspace},
                       {"margin", d.margin},
                       {"free", d.free()}});
  }
  return devices;
}

nlohmann::ordered_json speed_json(const placement::Speed& s) {
  return {{"load_seconds", s.load_seconds},
          {"load_limit", s.load_limit},
          {"prefill_tokens", s.prompt},
          {"prefill", s.prefill},
          {"prefill_limit", placement::resource_name(s.prefill_limit)},
          {"decode_position", s.decode_position},
          {"decode", s.decode},
          {"decode_limit", placement::resource_name(s.decode_limit)},
          {"decode_full_context", s.decode_full}};
}

}  // namespace

std::string plan_json(const PlannedModel& planned) {
  const placement::Plan& plan = planned.plan;
  nlohmann::ordered_json modules = nlohmann::ordered_json::array();
  for (const placement::ModuleCost& m : plan.modules) {
    modules.push_back({{"path", m.path},
                       {"class", placement::part_name(m.part)},
                       {"operator", m.op},
                       {"device", m.device},
                       {"format", m.format},
                       {"bytes", m.bytes},
                       {"file_bytes", m.kept.file_bytes},
                       {"gpu_experts", m.n_on_gpu},
                       {"reason", m.reason}});
  }
  nlohmann::ordered_json json = {{"model", planned.source->path()},
                                 {"architecture", planned.source->config().architecture},
                                 {"type", planned.format},
                                 {"context", plan.context},
                                 {"largest_context", plan.largest_context},
                                 {"weight_bytes", plan.weight_bytes},
                                 {"file_bytes", plan.file_bytes},
                                 {"cache_bytes_per_token", plan.kv_bytes_per_token},
                                 {"cache_bytes", plan.kv_bytes},
                                 {"devices", devices_json(plan)}};
  json["peak_bytes"] = plan.peak_bytes;
  if (plan.speed) json["speed"] = speed_json(*plan.speed);
  json["rates_measured"] = planned.plan.rates.measured;
  json["hints"] = plan.hints;
  json["warnings"] = planned.warnings;
  json["modules"] = modules;
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string plan_rules(const PlannedModel& planned) {
  const std::string heading =
      fmt::format("{} on {} GPU{}, context {}.\nWritten by kt plan.",
                  planned.source->config().architecture, planned.machine.gpus.size(),
                  planned.machine.gpus.size() == 1 ? "" : "s", planned.plan.context);
  return placement::rule_text(*planned.plan.model, planned.plan.placement, heading);
}

}  // namespace kt::session
