// kt plan: what would run where, how much memory it takes and how fast it would be, from headers or
// a config.json alone; for this machine or for one given by hand.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "commands.h"
#include "input.h"
#include "io/atomic_file.h"
#include "options.h"
#include "placement/plan_report.h"
#include "placement/rule_writer.h"
#include "session/plan_model.h"

namespace kt::app {
namespace {

using placement::Plan;

struct PlanArgs {
  session::PlanRequest request;
  std::string write_rules;
  bool modules = false;
  bool json = false;
};

nlohmann::ordered_json devices_json(const Plan& plan) {
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

void print_json(const session::PlannedModel& planned) {
  const Plan& plan = planned.plan;
  nlohmann::ordered_json modules = nlohmann::ordered_json::array();
  for (const placement::ModuleCost& m : plan.modules) {
    modules.push_back({{"path", m.path},
                       {"class", placement::part_name(m.part)},
                       {"operator", m.op},
                       {"device", m.device},
                       {"format", m.format},
                       {"bytes", m.bytes},
                       {"file_bytes", m.kept.file_bytes},
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
  std::fputs((json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n").c_str(),
             stdout);
}

void print_text(const session::PlannedModel& planned, bool modules) {
  const Plan& plan = planned.plan;
  std::string text = planned.source->path();
  if (text.empty()) text = planned.source->config().architecture;
  if (!planned.format.empty()) text += " as " + planned.format;
  text += fmt::format(", context {}, at most {}\n\n", plan.context, plan.largest_context);
  text += placement::device_table(plan) + "\n" + placement::speed_text(plan);
  text += planned.plan.rates.measured ? "measured rates of this CPU\n"
                                      : "given rates, of which 80 % are counted on\n";
  if (planned.machine.gpus.empty())
    text += "no GPU: this build computes on the CPU; --gpu plans for one\n";
  for (const std::string& hint : plan.hints) text += "- " + hint + "\n";
  if (modules) text += "\n" + placement::module_table(plan);
  std::fputs(text.c_str(), stdout);
}

int run_plan(const PlanArgs& args) {
  if (!args.write_rules.empty()) check_writable(args.write_rules);
  const session::PlannedModel planned = session::plan_model(args.request);
  for (const std::string& warning : planned.warnings) std::fputs(warning.c_str(), stderr);
  if (!args.write_rules.empty()) {
    const std::string heading =
        fmt::format("{} on {} GPU{}, context {}.\nWritten by kt plan.",
                    planned.source->config().architecture, planned.machine.gpus.size(),
                    planned.machine.gpus.size() == 1 ? "" : "s", planned.plan.context);
    io::write_file(args.write_rules,
                   placement::rule_text(*planned.plan.model, planned.plan.placement, heading));
  }
  if (args.json) {
    print_json(planned);
  } else {
    print_text(planned, args.modules || !args.request.rules.empty());
  }
  return 0;
}

void add_machine_options(CLI::App& command, session::PlanRequest& request) {
  const std::string group = kMachineGroup;
  command
      .add_option("--gpu", request.gpus,
                  "A GPU: memory@bandwidth, or memory@bandwidth@operations; may be repeated")
      ->type_name("GPU")
      ->allow_extra_args(false)
      ->group(group);
  command
      .add_option("--ram", request.ram,
                  "Memory, or memory@bandwidth of another machine; this machine's when not given")
      ->type_name("RAM")
      ->group(group);
  command.add_option("--cpu-flops", request.cpu_flops, "Operations per second of another machine")
      ->type_name("N")
      ->group(group);
  command.add_option("--pcie", request.link, "Bytes per second between a GPU and memory; 25GB/s")
      ->type_name("RATE")
      ->group(group);
  command.add_option("--disk", request.disk, "Bytes per second of the disk; 2GB/s")
      ->type_name("RATE")
      ->group(group);
  command.add_flag("--remeasure", request.remeasure, "Measure this CPU anew")->group(group);
}

}  // namespace

void add_plan(CLI::App& root, Action& action) {
  auto args = std::make_shared<PlanArgs>();
  session::PlanRequest& request = args->request;
  CLI::App* command = root.add_subcommand(
      "plan", "Show what would run where, in how much memory and how fast, without loading it");
  command->group("Measure");
  command
      ->add_option("MODEL", request.model,
                   "A model file, folder or name, or a config.json of one that is not here")
      ->required()
      ->type_name("");
  command
      ->add_option("--format", request.format,
                   "File type to plan for with a config.json, as kt quantize --help lists them")
      ->type_name("TYPE")
      ->capture_default_str();
  add_run_options(*command, request);
  add_machine_options(*command, request);
  command->add_option("--rules", request.rules, "Explain this rule file instead of planning")
      ->type_name("FILE");
  command->add_option("--write-rules", args->write_rules, "Write the plan as a rule file")
      ->type_name("FILE");
  command->add_flag("--modules", args->modules, "List the modules, equal layers merged");
  command->add_flag("--json", args->json, "Print JSON with every module");
  command->footer(examples({"kt plan model.gguf",
                            "kt plan DeepSeek-V3/config.json --format Q4_K_M "
                            "--gpu 24GiB@1000GB/s --ram 512GiB@300GB/s --cpu-flops 10TFLOPS"}));
  command->callback([args, &action] { action = [args] { return run_plan(*args); }; });
}

}  // namespace kt::app
