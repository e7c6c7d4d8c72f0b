#include "session/plan_model.h"

#include <algorithm>

#include "base/topology.h"
#include "io/hf_config.h"
#include "io/mmap_file.h"
#include "models/model.h"
#include "placement/rules.h"
#include "session/choices.h"
#include "session/dummy_source.h"
#include "session/machine_profile.h"
#include "session/registry.h"

namespace kt::session {
namespace {

using placement::Machine;

io::ModelConfig read_config(const std::string& path) {
  const io::MmapFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.size());
  return io::parse_hf_config(text, {}, path).model;
}

// A machine with hand-made rates is not this one: AVX2 packing, and threads that share its rates.
constexpr int kThreadsElsewhere = 16;

struct Host {
  Machine machine;
  placement::Packing packing;
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
  Machine& m = host.machine;
  m.ram = topology.memory_available;
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
  if (!request.cpu_flops.empty() && !host.elsewhere) {
    fail(ErrorCode::kUsage, "--cpu-flops",
         "is for a machine given by hand: add its memory with a rate, as in --ram 128GiB@100GB/s");
  }
  return host;
}

ProfileNeeds needs_of(const io::WeightSource& source, const placement::Plan& plan,
                      formats::Format kv) {
  ProfileNeeds needs;
  const io::ModelConfig& c = source.config();
  const bool latent = c.mla.kv_lora_rank > 0;
  needs.dim_v = latent ? c.mla.kv_lora_rank : c.head_dim;
  needs.dim_qk = latent ? needs.dim_v + c.mla.qk_rope_dim : needs.dim_v;
  needs.heads_per_kv = latent ? c.n_heads : c.n_heads / std::max<std::int64_t>(1, c.n_kv_heads);
  needs.kv_format = kv;
  for (const placement::ModuleCost& m : plan.modules) {
    if (m.part == placement::Part::kEmbedding) continue;
    for (const operators::KeptMatrix& w : m.kept.matrices) needs.formats.insert(w.format);
  }
  return needs;
}

double bits_of(const FileType& type) {
  const formats::FormatTraits& t = formats::traits(type.base);
  return 8.0 * static_cast<double>(t.block_bytes) / static_cast<double>(t.block_len);
}

}  // namespace

std::string largest_format(const io::WeightSource& source, const Machine& machine,
                           placement::PlanOptions options) {
  std::vector<FileType> types = file_types();
  std::stable_sort(types.begin(), types.end(),
                   [](const FileType& a, const FileType& b) { return bits_of(a) > bits_of(b); });
  double n_weights = 0.0;
  for (const io::TensorInfo& t : source.tensors())
    n_weights += static_cast<double>(t.shape.count());
  double room = static_cast<double>(machine.ram);
  for (const placement::Gpu& gpu : machine.gpus) room += static_cast<double>(gpu.bytes);
  options.largest_format = nullptr;
  Machine unrated = machine;
  unrated.cpu = {};
  std::erase_if(types, [&](const FileType& t) { return n_weights * bits_of(t) / 8.0 > room; });
  const auto fits = [&](const FileType& type) {
    try {
      const auto dummy = make_dummy_source(source.config(), type, {});
      placement::plan(*dummy, unrated, options);
      return true;
    } catch (const Error& e) {
      if (e.code() == ErrorCode::kNoMemory || e.code() == ErrorCode::kUnsupported) return false;
      throw;
    }
  };
  const auto largest = std::partition_point(types.begin(), types.end(),
                                            [&](const FileType& type) { return !fits(type); });
  return largest == types.end() ? std::string() : std::string(largest->name);
}

PlannedModel plan_model(const PlanRequest& request) {
  PlannedModel planned;
  if (request.model.ends_with(".json")) {
    planned.format = file_type(request.format).name;
    planned.source = make_dummy_source(read_config(request.model), file_type(request.format), {});
  } else {
    planned.source = io::open_weights(resolve_model(request.model));
  }
  const io::WeightSource& source = *planned.source;
  Host host = describe_host(request);
  placement::PlanOptions options;
  options.context = request.context;
  options.chunk_size = request.chunk_size;
  options.kv_format = kv_format(request.kv);
  options.packing = host.packing;
  options.largest_format = [&] { return largest_format(source, host.machine, options); };
  operators::Placement given;
  if (!request.rules.empty()) {
    const placement::RuleContext context{
        source.config(),
        given.catalogue,
        {static_cast<int>(host.machine.gpus.size()), !host.machine.gpus.empty()},
        "cpu"};
    placement::RuleResult result = placement::read_rules(request.rules, context);
    given = std::move(result.placement);
    given.devices = context.devices;
    planned.warnings = std::move(result.warnings);
    options.given = &given;
  }
  planned.plan = placement::plan(source, host.machine, options);
  if (!host.elsewhere) {
    backend::Cpu cpu(host.packing.n_threads, host.cores, host.packing.caps, host.packing.act);
    host.machine.cpu = cpu_profile(
        cpu, host.cores, needs_of(source, planned.plan, options.kv_format), request.remeasure);
    planned.plan = placement::plan(source, host.machine, options);
  }
  planned.machine = std::move(host.machine);
  return planned;
}

}  // namespace kt::session
