#include "session/plan_model.h"

#include <algorithm>

#include "base/topology.h"
#include "io/hf_config.h"
#include "session/choices.h"
#include "session/dummy_source.h"
#include "session/gpu_machine.h"
#include "session/gpu_survey.h"
#include "session/machine_profile.h"
#include "session/registry.h"

namespace kt::session {
namespace {

// A machine with hand-made rates is not this one: AVX2 packing, and threads that share its rates.
constexpr int kThreadsElsewhere = 16;

struct Host : Place {
  Topology topology;
  bool elsewhere = false;
  GpuMachine gpus;  // of this machine
};

GpuMachine gpus_here(const PlanRequest& request, const OnWarning& on_warning) {
  if (request.gpus == 0 || request.gpu_bytes.empty()) return find_gpus(request, on_warning);
  check_gpu_limits(request);
  GpuMachine machine;
  machine.library = backend::GpuLibrary::find(request.gpu_plugin);
  int n_used = 0;
  for (const std::uint64_t bytes : request.gpu_bytes) {
    if (n_used == request.gpus) break;
    n_used += bytes > 0 ? 1 : 0;  // one that was left out keeps its number
    const std::uint64_t most = request.gpu_memory > 0 ? request.gpu_memory : bytes;
    machine.gpus.push_back({std::min(bytes, most), 0.0, 0.0});
  }
  return machine;
}

// Rates are measured, and so count in full; what a GPU computes follows what it reads.
void measure_gpus(const PlanRequest& request, Host& host) {
  placement::Machine& m = host.machine;
  double slowest = 0.0;
  for (std::size_t g = 0; g < m.gpus.size(); ++g) {
    if (m.gpus[g].bytes == 0) continue;  // left out
    const backend::GpuRates rates = gpu_rates(host.gpus.library, static_cast<int>(g));
    m.gpus[g].bandwidth = rates.read / placement::kUsable;
    m.gpus[g].flops = m.gpus[g].bandwidth * placement::kGpuFlopsPerByte;
    if (rates.to_device > 0.0 && (slowest == 0.0 || rates.to_device < slowest))
      slowest = rates.to_device;
  }
  if (request.link.empty() && slowest > 0.0) m.link = slowest / placement::kUsable;
}

void find_here(const PlanRequest& request, const OnWarning& on_warning, Host& host) {
  if (!request.given_gpus.empty() || !request.ram.empty()) {
    if (request.gpus <= 0 && request.gpu_memory == 0 && request.gpu_plugin.empty()) return;
    fail(ErrorCode::kUsage, "--gpus",
         "--gpus, --gpu-memory and --gpu-plugin are for the GPUs of this machine: not together "
         "with --gpu or --ram, which describe another");
  }
  host.gpus = gpus_here(request, on_warning);
  host.machine.gpus = host.gpus.gpus;
  measure_gpus(request, host);
}

Host describe_host(const PlanRequest& request, const OnWarning& on_warning) {
  Host host;
  host.topology = detect_topology();
  const Topology& topology = host.topology;
  host.packing.act = act_policy(request.act);
  host.packing.caps = detect_caps();
  host.packing.n_threads = request.n_threads > 0 ? request.n_threads : default_threads(topology);
  placement::Machine& m = host.machine;
  m.ram = topology.memory_available + request.held;
  for (const std::string& gpu : request.given_gpus) m.gpus.push_back(placement::parse_gpu(gpu));
  if (!request.link.empty()) m.link = placement::parse_rate(request.link, "--pcie");
  if (!request.disk.empty()) m.disk = placement::parse_rate(request.disk, "--disk");
  if (!request.ram.empty()) {
    const placement::Ram ram = placement::parse_ram(request.ram);
    m.ram = ram.bytes;
    m.ram_given = true;
    if (ram.bandwidth > 0.0) {
      host.elsewhere = true;
      host.packing.caps = kAvx2;
      if (request.n_threads == 0) host.packing.n_threads = kThreadsElsewhere;
      const double usable = placement::kUsable * ram.bandwidth;
      const double flops = request.cpu_flops.empty()
                               ? ram.bandwidth * placement::kCpuFlopsPerByte
                               : placement::parse_flops(request.cpu_flops, "--cpu-flops");
      m.cpu = placement::roofline_rates(usable, placement::kUsable * flops, host.packing.n_threads);
    }
  }
  if (!request.cpu_flops.empty() && !host.elsewhere) {
    fail(ErrorCode::kUsage, "--cpu-flops",
         "is for a machine given by hand: add its memory with a rate, as in --ram 128GiB@100GB/s");
  }
  find_here(request, on_warning, host);
  host.devices = {static_cast<int>(m.gpus.size()), false};
  return host;
}

ProfileNeeds needs_of(const io::ModelConfig& c, const std::vector<placement::ModuleCost>& modules,
                      formats::Format kv) {
  ProfileNeeds needs;
  const bool latent = c.mla.kv_lora_rank > 0;
  needs.dim_v = latent ? c.mla.kv_lora_rank : c.head_dim;
  needs.dim_qk = latent ? needs.dim_v + c.mla.qk_rope_dim : needs.dim_v;
  needs.heads_per_kv = latent ? c.n_heads : c.n_heads / std::max<std::int64_t>(1, c.n_kv_heads);
  needs.kv_format = kv;
  for (const placement::ModuleCost& m : modules) {
    if (m.part == placement::Part::kEmbedding) continue;
    for (const operators::KeptMatrix& w : m.kept.matrices)
      needs.weights.emplace(placement::WeightKind{w.format, w.scales}, w.k);
  }
  return needs;
}

}  // namespace

PlannedModel plan_model(const PlanRequest& request) {
  PlannedModel planned;
  if (request.model.ends_with(".json")) {
    planned.format = file_type(request.format).name;
    planned.source =
        make_dummy_source(io::read_hf_config(request.model), file_type(request.format), {});
  } else {
    planned.source = io::open_weights(resolve_model(request.model));
  }
  const auto warn = [&](const std::string& warning) { planned.warnings.push_back(warning); };
  Host host = describe_host(request, warn);
  planned.gpus_measured = !host.gpus.gpus.empty();
  planned.gpu_notes = host.gpus.left_out;
  if (host.machine.gpus.empty() && !host.gpus.problem.empty())
    planned.gpu_notes = "no GPU here: " + host.gpus.problem + "; --gpu plans for one";
  const auto measure = [&](const std::vector<placement::ModuleCost>& modules) {
    backend::Cpu cpu(host.packing.n_threads, host.topology.cores, host.packing.caps,
                     host.packing.act);
    return cpu_profile(cpu, host.topology,
                       needs_of(planned.source->config(), modules, kv_format(request.kv)),
                       request.remeasure);
  };
  planned.plan = place(*planned.source, host, request, warn, measure);
  planned.machine = std::move(host.machine);
  return planned;
}

}  // namespace kt::session
