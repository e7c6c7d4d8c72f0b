#include "session/plan_model.h"

#include <algorithm>

#include "base/topology.h"
#include "io/hf_config.h"
#include "session/choices.h"
#include "session/dummy_source.h"
#include "session/machine_profile.h"
#include "session/registry.h"

namespace kt::session {
namespace {

// A machine with hand-made rates is not this one: AVX2 packing, and threads that share its rates.
constexpr int kThreadsElsewhere = 16;

struct Host : Place {
  std::vector<int> cores;
  bool elsewhere = false;
};

Host describe_host(const PlanRequest& request) {
  Host host;
  const Topology topology = detect_topology();
  host.cores = topology.cores;
  host.packing.act = act_policy(request.act);
  host.packing.caps = detect_caps();
  host.packing.n_threads = request.n_threads > 0 ? request.n_threads : default_threads(topology);
  placement::Machine& m = host.machine;
  m.ram = topology.memory_available + request.held;
  for (const std::string& gpu : request.gpus) m.gpus.push_back(placement::parse_gpu(gpu));
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
  host.devices = {static_cast<int>(m.gpus.size()), false};
  if (!request.cpu_flops.empty() && !host.elsewhere) {
    fail(ErrorCode::kUsage, "--cpu-flops",
         "is for a machine given by hand: add its memory with a rate, as in --ram 128GiB@100GB/s");
  }
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
  Host host = describe_host(request);
  const auto measure = [&](const std::vector<placement::ModuleCost>& modules) {
    backend::Cpu cpu(host.packing.n_threads, host.cores, host.packing.caps, host.packing.act);
    return cpu_profile(cpu, host.cores,
                       needs_of(planned.source->config(), modules, kv_format(request.kv)),
                       request.remeasure);
  };
  const auto warn = [&](const std::string& warning) { planned.warnings.push_back(warning); };
  planned.plan = place(*planned.source, host, request, warn, measure);
  planned.machine = std::move(host.machine);
  return planned;
}

}  // namespace kt::session
