// kt plan: what would run where, how much memory it takes and how fast it would be, from headers or
// a config.json alone; for this machine or for one given by hand.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "commands.h"
#include "input.h"
#include "io/atomic_file.h"
#include "options.h"
#include "placement/plan_report.h"
#include "session/plan_json.h"

namespace kt::app {
namespace {

using placement::Plan;

struct PlanArgs {
  session::PlanRequest request;
  std::string write_rules;
  bool modules = false;
  bool json = false;
};

void print_text(const session::PlannedModel& planned, bool modules) {
  const Plan& plan = planned.plan;
  std::string text = planned.source->path();
  if (text.empty()) text = planned.source->config().architecture;
  if (!planned.format.empty()) text += " as " + planned.format;
  text += fmt::format(", context {}, at most {}\n\n", plan.context, plan.largest_context);
  text += placement::device_table(plan) + "\n" + placement::speed_text(plan);
  text += !planned.plan.rates.measured ? "given rates, of which 80 % are counted on\n"
          : planned.gpus_measured      ? "measured rates of this CPU and its GPUs\n"
                                       : "measured rates of this CPU\n";
  if (!planned.gpu_notes.empty()) text += planned.gpu_notes + "\n";
  for (const std::string& hint : plan.hints) text += "- " + hint + "\n";
  if (modules) text += "\n" + placement::module_table(plan);
  std::fputs(text.c_str(), stdout);
}

int run_plan(const PlanArgs& args) {
  if (!args.write_rules.empty()) check_writable(args.write_rules);
  const session::PlannedModel planned = session::plan_model(args.request);
  for (const std::string& warning : planned.warnings) std::fputs(warning.c_str(), stderr);
  if (!args.write_rules.empty()) {
    io::write_file(args.write_rules, session::plan_rules(planned));
  }
  if (args.json) {
    std::fputs((session::plan_json(planned) + "\n").c_str(), stdout);
  } else {
    print_text(planned, args.modules || !args.request.rules.empty());
  }
  return 0;
}

void add_machine_options(CLI::App& command, session::PlanRequest& request) {
  const std::string group = kMachineGroup;
  command
      .add_option("--gpu", request.given_gpus,
                  "A GPU of another machine: memory@bandwidth, or memory@bandwidth@operations; may "
                  "be repeated")
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
