#include "placement/planner.h"

#include <algorithm>
#include <set>

#include "base/bytes.h"
#include "models/model.h"
#include "operators/gpu_attention.h"
#include "operators/gpu_step.h"
#include "placement/gpu_fill.h"

namespace kt::placement {
namespace {

constexpr std::int64_t kPage = tensor::kKvPageLen;
constexpr std::int64_t kUsefulContext = 1024;  // tokens; less is not chosen silently

std::uint64_t times(std::uint64_t bytes, std::int64_t n) {
  return bytes * static_cast<std::uint64_t>(n);
}

struct Need {
  std::vector<DevicePlan> devices;
  bool fits = true;
  std::uint64_t total = 0;
  std::uint64_t capacity = 0;
};

class Planner {
 public:
  Planner(const io::WeightSource& source, const Machine& machine, const PlanOptions& options)
      : source_(source), config_(source.config()), machine_(machine), options_(options) {
    options_.packing.gpus = !machine.gpus.empty();
    const bool may_stream = options.stream_experts != operators::StreamExperts::kOff;
    chunk_ = options.chunk_size > 0 ? options.chunk_size : may_stream ? kStreamedChunk : kChunk;
  }

  Plan run() {
    check_context();
    if (options_.given != nullptr) plan_.placement = *options_.given;
    plan_.placement.stream_experts = options_.stream_experts;
    plan_.placement.expert_cache = options_.expert_cache;
    plan_.model = models::build_model(config_, plan_.placement);
    plan_.modules = footprint(*plan_.model, plan_.placement, source_, options_.packing);
    kv_ = plan_.model->state_spec();
    for (const tensor::KvLayerSpec& spec : kv_) {
      plan_.kv_bytes_per_token += kv_layer_bytes(spec, options_.kv_format);
    }
    if (decides()) choices_ = gpu_choices(source_, options_.packing, plan_.modules);
    choose_caches();
    choose_chunk();
    choose_context();
    if (decides()) place(assign(plan_.context));
    finish();
    return std::move(plan_);
  }

 private:
  bool decides() const { return options_.given == nullptr && !machine_.gpus.empty(); }

  // Some experts of each layer on GPUs: where there is room, and all of them fit the CPU's memory.
  void choose_caches() {
    const bool packs = (options_.packing.caps & kAvx2) != 0;  // as GPUs can read it
    caches_ =
        options_.expert_cache != operators::ExpertCacheMode::kOff && options_.packing.gpus && packs;
    if (!caches_ || !decides()) return;
    const Assignment assignment = assign(wanted_context());
    const DevicePlan cpu = need(wanted_context(), assignment).devices.front();
    caches_ = has_some(assignment.n_on_gpu) && cpu.used() <= cpu.capacity;
  }

  static bool has_some(const std::vector<std::int64_t>& n_on_gpu) {
    return std::any_of(n_on_gpu.begin(), n_on_gpu.end(), [](std::int64_t n) { return n > 0; });
  }

  // Streamed experts want large steps, unless their memory is needed for something else.
  void choose_chunk() {
    if (options_.chunk_size > 0) return;
    chunk_ = kChunk;
    const std::int64_t context = wanted_context();
    const auto layers_on_gpus = [&] {
      if (!decides()) return std::int64_t{0};
      const std::vector<int> gpus = assign(context).layer_gpu;
      return static_cast<std::int64_t>(gpus.size()) - std::count(gpus.begin(), gpus.end(), -1);
    };
    if (!streams(context)) return;
    const std::int64_t layers = layers_on_gpus();
    chunk_ = kStreamedChunk;
    if (!need(context).fits || layers_on_gpus() < layers) chunk_ = kChunk;
  }

  bool streams(std::int64_t context) const {
    if (options_.stream_experts == operators::StreamExperts::kOff) return false;
    const std::vector<std::uint64_t> bytes = stream_bytes(context, false);
    if (std::all_of(bytes.begin(), bytes.end(), [](std::uint64_t b) { return b == 0; }))
      return false;
    const std::vector<int> to = where(decides() ? assign(context) : Assignment{}).streams;
    return std::any_of(to.begin(), to.end(), [](int gpu) { return gpu >= 0; });
  }

  std::int64_t wanted_context() const {
    return options_.context > 0 ? options_.context
                                : std::min(config_.max_context, options_.default_context);
  }

  void check_context() const {
    if (options_.context < 0) {
      fail(ErrorCode::kUsage, "--ctx", "{} is not a context length; at least 1 is needed",
           options_.context);
    }
    if (options_.context > config_.max_context) {
      fail(ErrorCode::kUsage, "--ctx", "{} tokens are more than this model's {}", options_.context,
           config_.max_context);
    }
  }

  std::uint64_t workspace(std::int64_t context) const {
    return workspace_bytes(config_, plan_.modules, std::min(chunk_, context), options_.packing);
  }

  std::uint64_t gpu_workspace(std::int64_t context) const {
    return workspace(context) +
           operators::gpu_attention_bytes(config_, std::min(chunk_, context), context) +
           operators::gpu_widened_bytes(config_, options_.kv_format, cached(context));
  }

  // Tokens that the cache holds, of all sequences together.
  std::int64_t cached(std::int64_t context) const {
    return std::max(context, options_.cache_tokens);
  }

  // On each GPU that experts of the CPU go to; cached: some stay.
  std::vector<std::uint64_t> stream_bytes(std::int64_t context, bool cached) const {
    std::vector<std::uint64_t> bytes;
    const bool streamed =
        options_.packing.gpus && options_.stream_experts != operators::StreamExperts::kOff;
    const ExpertWays ways{streamed, cached};
    for (const Gpu& gpu : machine_.gpus) {
      bytes.push_back(placement::stream_bytes(config_, plan_.modules, std::min(chunk_, context),
                                              gpu.bytes, ways));
    }
    return bytes;
  }

  FillInput fill_input(std::int64_t context) const {
    return {config_,
            plan_.modules,
            choices_,
            kv_,
            options_.kv_format,
            machine_,
            cached(context),
            gpu_workspace(context),
            stream_bytes(context, caches_),
            caches_};
  }

  Assignment assign(std::int64_t context) const { return fill_gpus(fill_input(context)); }

  // What every device must hold for this context.
  Need need(std::int64_t context) const {
    return need(context, decides() && !placed_ ? assign(context) : Assignment{});
  }

  // What is where: as the model is placed, or as an assignment that is considered puts it.
  struct Where {
    std::set<int> gpus;                   // in use
    std::vector<std::string> modules;     // each one's device
    std::vector<std::uint64_t> bytes;     // on it
    std::vector<int> caches;              // each layer's GPU; -1: the CPU
    std::vector<int> blocks;              // of each module of experts on the CPU: its block's GPU
    std::vector<int> streams;             // the same, if that may compute some of them
    std::vector<std::int64_t> n_on_gpus;  // of each module's experts
  };

  Where where(const Assignment& assignment) const {
    const bool placed = assignment.gpu.empty();
    Where w;
    for (std::size_t i = 0; i < plan_.modules.size(); ++i) {
      const ModuleCost& m = plan_.modules[i];
      const int gpu = placed ? -1 : assignment.gpu[i];
      w.modules.push_back(gpu < 0 ? m.device : operators::gpu_name(gpu));
      w.bytes.push_back(gpu < 0 ? m.bytes : choices_[i].bytes);
      w.n_on_gpus.push_back(placed ? m.n_on_gpu : assignment.n_on_gpu[i]);
      const bool goes = !placed && m.part == Part::kExperts && gpu < 0 && m.layer >= 0;
      const int layer = goes ? assignment.layer_gpu[static_cast<std::size_t>(m.layer)] : -1;
      w.blocks.push_back(placed ? m.block_gpu.value_or(-1) : layer);
      w.streams.push_back(placed ? m.streams_to.value_or(-1) : can_stream(m) ? layer : -1);
    }
    if (placed) {
      w.gpus = gpus_in_use(*plan_.model, plan_.placement);
      for (const tensor::KvLayerSpec& layer : kv_) w.caches.push_back(layer.gpu);
    } else {
      w.caches = assignment.layer_gpu;
      w.gpus.insert(assignment.gpu.begin(), assignment.gpu.end());
      w.gpus.insert(w.caches.begin(), w.caches.end());
    }
    return w;
  }

  Need need(std::int64_t context, const Assignment& assignment) const {
    Need n;
    n.devices = sum_up(context, where(assignment));
    for (const DevicePlan& d : n.devices) {
      n.fits = n.fits && d.used() <= d.capacity;
      n.total += d.used();
      n.capacity += d.capacity;
    }
    return n;
  }

  // The plan of a GPU; of the CPU, which stands in where there is none.
  static DevicePlan& at(std::optional<int> gpu, std::vector<DevicePlan>& devices) {
    const bool exists = gpu && *gpu >= 0 && static_cast<std::size_t>(*gpu) + 1 < devices.size();
    return devices[exists ? static_cast<std::size_t>(*gpu) + 1 : 0];
  }

  std::vector<DevicePlan> sum_up(std::int64_t context, const Where& w) const {
    std::vector<DevicePlan> devices;
    devices.push_back({"cpu", machine_.ram, {}, 0, workspace(context), kRamMargin});
    for (std::size_t g = 0; g < machine_.gpus.size(); ++g) {
      devices.push_back({operators::gpu_name(static_cast<int>(g)),
                         machine_.gpus[g].bytes,
                         {},
                         0,
                         0,
                         gpu_margin(machine_.gpus[g])});
    }
    for (const int gpu : w.gpus) {
      DevicePlan& d = at(gpu, devices);
      if (&d != &devices.front()) d.workspace = gpu_workspace(context);
    }
    for (std::size_t i = 0; i < w.modules.size(); ++i) {
      const ModuleCost& m = plan_.modules[i];
      at(operators::gpu_index(w.modules[i]), devices).parts[static_cast<std::size_t>(m.part)] +=
          w.bytes[i];
      at(w.streams[i], devices).parts[static_cast<std::size_t>(Part::kExperts)] +=
          expert_bytes_on_gpu(m, config_.moe.n_experts, w.n_on_gpus[i]);
    }
    const std::int64_t pages = (cached(context) + kPage - 1) / kPage * kPage;
    for (std::size_t l = 0; l < kv_.size(); ++l)
      at(w.caches[l], devices).kv += times(kv_layer_bytes(kv_[l], options_.kv_format), pages);
    add_layer_wise(context, devices);
    add_streams(stream_bytes(context, has_some(w.n_on_gpus)), w, devices);
    add_exchange(w, devices);
    return devices;
  }

  // What GPUs need to which experts of the CPU go.
  void add_streams(std::vector<std::uint64_t> bytes, const Where& w,
                   std::vector<DevicePlan>& devices) const {
    for (const int to : w.streams) {
      const auto gpu = static_cast<std::size_t>(to);
      if (to < 0 || gpu >= bytes.size()) continue;  // the CPU stands in
      devices[gpu + 1].workspace += bytes[gpu];
      bytes[gpu] = 0;
    }
  }

  // Pinned memory of the host for each GPU in use; recorded steps exchange rows with experts of the
  // CPU.
  static void add_exchange(const Where& w, std::vector<DevicePlan>& devices) {
    for (std::size_t g = 1; g < devices.size(); ++g) {
      if (devices[g].workspace == 0) continue;
      devices.front().workspace += operators::GpuStep::kPinnedBytes;
      if (std::count(w.blocks.begin(), w.blocks.end(), static_cast<int>(g) - 1) > 0)
        devices.front().workspace += operators::GpuProgram::kAllBytes;
    }
  }

  // What a prompt that runs layer by layer needs beside: its rows, and larger prefill operators.
  void add_layer_wise(std::int64_t context, std::vector<DevicePlan>& devices) const {
    const std::uint64_t rows = waiting_rows_bytes(config_, plan_.placement, context);
    if (rows == 0) return;
    devices.front().workspace += rows;
    for (DevicePlan& d : devices)
      d.workspace += prefill_growth(plan_.modules, options_.packing, d.name);
  }

  // Largest multiple of a page that fits; 0 when none does.
  std::int64_t largest_context() const {
    if (need(config_.max_context).fits) return config_.max_context;
    std::int64_t fits = 0;
    std::int64_t too_much = config_.max_context / kPage + 1;  // pages
    while (too_much - fits > 1) {
      const std::int64_t middle = fits + (too_much - fits) / 2;
      (need(middle * kPage).fits ? fits : too_much) = middle;
    }
    return fits * kPage;
  }

  void choose_context() {
    plan_.context = wanted_context();
    const Need n = need(plan_.context);
    if (n.fits && !options_.report) return;
    plan_.largest_context = largest_context();
    if (n.fits) return;
    if (options_.context == 0 && plan_.largest_context > kUsefulContext) {
      plan_.context = std::min(plan_.context, plan_.largest_context);
      return;
    }
    refuse(n);
  }

  [[noreturn]] void refuse(const Need& n) const {
    std::uint64_t weights = 0;
    std::uint64_t kv = 0;
    std::uint64_t work = 0;
    std::uint64_t other = 0;
    std::uint64_t lacking = 0;
    std::string on;
    for (const DevicePlan& d : n.devices) {
      for (const std::uint64_t bytes : d.parts) weights += bytes;
      kv += d.kv;
      work += d.workspace;
      other += d.margin;
      if (d.used() <= d.capacity) continue;
      lacking += d.used() - d.capacity;
      on += (on.empty() ? "" : ", ") + d.name;
    }
    std::string hint;
    if (plan_.largest_context >= kPage) {
      hint = fmt::format("--ctx {} would fit", plan_.largest_context);
    } else {
      const std::string format = options_.largest_format ? options_.largest_format() : "";
      hint =
          format.empty()
              ? std::string("use a file with fewer bits per weight, or a machine with more memory")
              : format + " is the largest format that would fit, or a machine with more memory";
    }
    fail(ErrorCode::kNoMemory, source_.path(),
         "needs {} of memory, {} are available ({} short on {}): weights {}, cache for {} tokens "
         "{}, "
         "workspace {}, other {}; {}",
         human_bytes(n.total), human_bytes(n.capacity), human_bytes(lacking), on,
         human_bytes(weights), plan_.context, human_bytes(kv), human_bytes(work),
         human_bytes(other), hint);
  }

  void place(const Assignment& assignment) {
    plan_.placement.devices = {static_cast<int>(machine_.gpus.size()), false};
    place_on_gpus(*plan_.model, fill_input(plan_.context), assignment, plan_.placement);
    plan_.model = models::build_model(config_, plan_.placement);
    plan_.modules = footprint(*plan_.model, plan_.placement, source_, options_.packing);
    kv_ = plan_.model->state_spec();
    placed_ = true;
  }

  void finish() {
    // No prompt is long enough for layer-wise prefill: nothing is kept for it.
    std::int64_t& threshold = plan_.placement.layer_wise_threshold;
    if (plan_.context <= threshold) threshold = 0;
    const Need n = need(plan_.context);
    plan_.devices = n.devices;
    plan_.chunk_size = chunk_;
    plan_.workspace_bytes = n.devices.front().workspace;
    for (const DevicePlan& d : n.devices) plan_.kv_bytes += d.kv;
    plan_.peak_bytes = n.devices.front().used() - kRamMargin + kProgramBytes;
    for (const ModuleCost& m : plan_.modules) {
      plan_.weight_bytes += m.bytes;
      plan_.file_bytes += m.kept.file_bytes;
    }
    if (!options_.report) return;
    if (!machine_.cpu.known() && options_.measure) machine_.cpu = options_.measure(plan_.modules);
    plan_.rates = machine_.cpu;
    const bool known = std::none_of(machine_.gpus.begin(), machine_.gpus.end(), [](const Gpu& gpu) {
      return gpu.bytes > 0 && gpu.bandwidth == 0.0;
    });
    if (machine_.cpu.known() && known) plan_.speed = speed();
    if (!known) plan_.hints.push_back("no speed: too little of a GPU is free to measure its rates");
    add_hints();
  }

  Speed speed() const {
    const CostInput input{config_, plan_.modules, kv_, options_.kv_format, machine_};
    Speed s;
    load_time(s);
    s.prompt = std::min<std::int64_t>(512, plan_.context);
    StepTime prefill;
    for (std::int64_t done = 0; done < s.prompt; done += chunk_) {
      const StepTime t = step_time(input, {std::min(chunk_, s.prompt - done), done});
      prefill.seconds += t.seconds;
      for (std::size_t r = 0; r < kResources; ++r) prefill.by_resource[r] += t.by_resource[r];
    }
    s.prefill = static_cast<double>(s.prompt) / prefill.seconds;
    s.prefill_limit = prefill.limit();
    s.decode_position = std::min<std::int64_t>(64, plan_.context - 1);
    const StepTime decode = step_time(input, {1, s.decode_position});
    s.decode = 1.0 / decode.seconds;
    s.decode_limit = decode.limit();
    s.decode_full = 1.0 / step_time(input, {1, plan_.context - 1}).seconds;
    return s;
  }

  void load_time(Speed& s) const {
    double cpu_bytes = 0.0;
    double gpu_bytes = 0.0;
    for (const ModuleCost& m : plan_.modules) {
      (on_cpu(m.device, options_.packing) ? cpu_bytes : gpu_bytes) += static_cast<double>(m.bytes);
      gpu_bytes += static_cast<double>(expert_bytes_on_gpu(m, config_.moe.n_experts, m.n_on_gpu));
    }
    const double read = static_cast<double>(plan_.file_bytes) / machine_.disk;
    const double pack = cpu_bytes / machine_.cpu.pack;
    const double send = gpu_bytes / (kUsable * machine_.link);
    s.load_seconds = std::max({read, pack, send});
    s.load_limit = s.load_seconds == read   ? "disk"
                   : s.load_seconds == pack ? "packing"
                                            : "GPU link";
  }

  void add_hints();

  const io::WeightSource& source_;
  const io::ModelConfig& config_;
  Machine machine_;  // its CPU rates may be measured
  PlanOptions options_;
  Plan plan_;
  std::vector<tensor::KvLayerSpec> kv_;
  std::vector<GpuChoice> choices_;
  std::int64_t chunk_ = 0;  // rows of a step; while that is open, those that are considered
  bool caches_ = false;     // FillInput
  bool placed_ = false;
};

void Planner::add_hints() {
  const bool narrow = options_.kv_format == formats::Format::kF8_E4M3;
  const char* gives_back = narrow ? "a shorter --ctx" : "--kv f8_e4m3 or a shorter --ctx";
  if (plan_.largest_context > plan_.context) {
    plan_.hints.push_back(fmt::format("--ctx {} would still fit", plan_.largest_context));
  } else if (options_.context == 0 &&
             plan_.context < std::min(config_.max_context, options_.default_context)) {
    plan_.hints.push_back(fmt::format("the context was cut to {} tokens to fit{}", plan_.context,
                                      narrow ? "" : "; --kv f8_e4m3 holds twice as many"));
  }
  if (!plan_.speed) return;
  std::uint64_t next = 0;  // experts that stayed on the CPU, smallest layer
  std::uint64_t more = 0;  // one more of each layer
  std::int64_t n_least = config_.moe.n_experts;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const ModuleCost& m = plan_.modules[i];
    if (m.part != Part::kExperts || m.device != "cpu" || !choices_[i].possible) continue;
    if (m.n_on_gpu > 0) {
      more += expert_bytes_on_gpu(m, config_.moe.n_experts, 1);
      n_least = std::min(n_least, m.n_on_gpu);
    } else {
      next = next == 0 ? choices_[i].bytes : std::min(next, choices_[i].bytes);
    }
  }
  if (more > 0) {
    plan_.hints.push_back(
        fmt::format("GPUs hold {} of {} experts of each layer, another one of each takes {}; {} "
                    "gives some back",
                    n_least, config_.moe.n_experts, human_bytes(more), gives_back));
  }
  if (next > 0) {
    std::uint64_t free = 0;
    for (const DevicePlan& d : plan_.devices) {
      if (d.name != "cpu") free = std::max(free, d.free());
    }
    plan_.hints.push_back(
        fmt::format("{} more on a GPU would take another layer's experts ({}); {} gives some back",
                    human_bytes(next > free ? next - free : 0), human_bytes(next), gives_back));
  }
  switch (plan_.speed->decode_limit) {
    case Resource::kRamBandwidth:
      plan_.hints.push_back(
          "decode waits for memory: fewer bits per weight, or more memory channels, speed it up");
      break;
    case Resource::kCpuCompute:
      plan_.hints.push_back(
          "decode waits for the CPU: more cores speed it up; --act q8 halves the work");
      break;
    case Resource::kCpuOverhead:
      plan_.hints.push_back(
          "decode waits for hand-overs between threads: fewer --threads may help");
      break;
    case Resource::kGpuBandwidth:
    case Resource::kGpuCompute:
    case Resource::kLink: break;
  }
}

}  // namespace

std::uint64_t DevicePlan::used() const {
  std::uint64_t bytes = kv + workspace + margin;
  for (const std::uint64_t part : parts) bytes += part;
  return bytes;
}

Plan plan(const io::WeightSource& source, const Machine& machine, const PlanOptions& options) {
  return Planner(source, machine, options).run();
}

}  // namespace kt::placement
