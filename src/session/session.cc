#include "session/session.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "base/bytes.h"
#include "base/topology.h"
#include "io/atomic_file.h"
#include "io/files.h"
#include "io/names.h"
#include "operators/expert_cache.h"
#include "operators/expert_stream.h"
#include "operators/layered.h"
#include "operators/phased.h"
#include "session/choices.h"
#include "session/dummy_source.h"
#include "session/expert_profile.h"
#include "session/gpu_checks.h"
#include "session/kv_identity.h"
#include "session/nodes.h"
#include "session/registry.h"
#include "session/text_parts.h"

namespace kt::session {
namespace {

Topology topology_for(const Options& options) {
  Topology topology = detect_topology();
  if (options.emulate_nodes == 0) return topology;
  return emulate_nodes(std::move(topology), options.emulate_nodes);
}

}  // namespace

std::unique_ptr<backend::Cpu> make_cpu(const Options& options) {
  const Topology topology = topology_for(options);
  const int n_threads = options.n_threads > 0 ? options.n_threads : default_threads(topology);
  constexpr int kMaxThreads = 1024;
  if (options.n_threads < 0 || n_threads > kMaxThreads) {
    fail(ErrorCode::kUsage, "--threads", "{} threads: 1 to {} are possible", options.n_threads,
         kMaxThreads);
  }
  CpuCaps caps = detect_caps();
  if (!options.isa.empty()) caps = limit_caps(caps, options.isa);
  return std::make_unique<backend::Cpu>(plan_nodes(topology, n_threads, 0).place, caps,
                                        act_policy(options.act));
}

namespace {

using Clock = std::chrono::steady_clock;

// Progress with the average rate, at most ten times a second and once at the end.
operators::Loader::Progress make_progress(const Options& options, std::uint64_t total) {
  if (!options.on_load) return {};
  const auto start = Clock::now();
  auto last = start - std::chrono::seconds(1);
  return [=, on_load = options.on_load](std::uint64_t done) mutable {
    const auto now = Clock::now();
    if (done < total && now - last < std::chrono::milliseconds(100)) return;
    last = now;
    const double seconds = std::chrono::duration<double>(now - start).count();
    on_load(std::min(done, total), total, seconds > 0 ? static_cast<double>(done) / seconds : 0.0);
  };
}

}  // namespace

Session::~Session() {
  if (save_expert_profile_.empty()) return;
  try {
    io::write_file(save_expert_profile_, expert_uses(*model_));
  } catch (const std::exception& e) {
    if (on_warning_) on_warning_(fmt::format("{}\n", e.what()));
  }
}

std::unique_ptr<Session> Session::open(const Options& options) {
  return assemble(options, io::open_weights(resolve_model(options.model)));
}

std::unique_ptr<Session> Session::open_dummy(const Options& options, const std::string& config_path,
                                             const std::string& type, std::int64_t layers,
                                             double router_skew) {
  const io::ModelConfig config = read_dummy_config(config_path, layers);
  Options textless = options;
  textless.need_text = false;
  return assemble(textless,
                  make_dummy_source(config, file_type(type),
                                    {.seed = 1, .pooled = true, .router_skew = router_skew}));
}

std::unique_ptr<Session> Session::assemble(const Options& options,
                                           std::unique_ptr<io::WeightSource> source) {
  if (options.chunk_size < 0)
    fail(ErrorCode::kUsage, "--chunk", "{} rows: 0 or more are wanted", options.chunk_size);
  if (const std::string& path = options.save_expert_profile; !path.empty())
    const io::AtomicFile can_be_written(path);  // or throw now, not at the end
  std::unique_ptr<Session> s(new Session);
  s->source_ = std::move(source);
  s->cpu_ = make_cpu(options);
  placement::Plan plan = s->place(options);
  s->use_nodes(options, plan);
  s->placement_ = std::move(plan.placement);
  s->model_ = std::move(plan.model);
  engine::EngineOptions engine_options;
  engine_options.context = plan.context;
  engine_options.kv_tokens = std::max(plan.context, options.cache_tokens);
  engine_options.kv_format = kv_format(options.kv);
  engine_options.prompt_lookup = looks_up_prompt(options.speculate);
  if (options.defer_experts < 0)
    fail(ErrorCode::kUsage, "--defer-experts", "{} experts: 0 or more are wanted",
         options.defer_experts);
  if (options.defer_experts > 0 && engine_options.prompt_lookup) {
    fail(ErrorCode::kUsage, "--defer-experts",
         "not together with --speculate: guessed tokens are computed without it");
  }
  engine_options.defer_experts = options.defer_experts;
  engine_options.gpu_graphs = options.gpu_graphs == "on";
  engine_options.chunk_size = std::min(plan.chunk_size, plan.context);
  s->report_.file_bytes = plan.file_bytes;
  s->report_.kv_bytes = plan.kv_bytes;
  s->open_text(options);
  const auto start = Clock::now();
  s->open_gpus(options);
  s->open_streams(options, plan);
  operators::Loader loader(*s->source_, *s->cpu_, make_progress(options, s->report_.file_bytes),
                           s->gpus_, s->streams_, s->caches_);
  models::load_model(*s->model_, loader);
  operators::walk(*s->model_,
                  [&](operators::Module& m) { s->report_.packed_bytes += m.weight_bytes(); });
  if (const std::string refusal = describe_refusal(*s->cpu_); !refusal.empty()) {
    s->report_.nodes += (s->report_.nodes.empty() ? "" : "\n") + refusal;
  }
  engine_options.layer_wise_threshold = s->placement_.layer_wise_threshold;
  engine_options.make_loader = [self = s.get()] {
    return operators::Loader(*self->source_, *self->cpu_, {}, self->gpus_, self->streams_,
                             self->caches_);
  };
  if (!s->caches_.empty()) {
    engine_options.before_step = [self = s.get()](operators::GpuSteps gpus, std::int64_t n_rows) {
      for (const auto& cache : self->caches_) {
        for (const auto& gpu : gpus) {
          if (gpu->index() == cache->gpu().index()) cache->update(*gpu, n_rows);
        }
      }
      operators::check_errors(gpus);
    };
  }
  if (options.page_store != nullptr) {
    engine_options.page_store = options.page_store;
    engine_options.kv_identity = kv_identity(*s, options, {engine_options.chunk_size, s->gpus_});
  }
  s->engine_ = std::make_unique<engine::Engine>(*s->model_, *s->cpu_, engine_options, s->gpus_);
  s->try_gpus();
  if (!options.save_expert_profile.empty()) expert_uses(*s->model_);  // or throw now
  s->save_expert_profile_ = options.save_expert_profile;
  s->on_warning_ = options.on_warning;
  if (options.trace || !options.trace_file.empty()) {
    constexpr std::size_t kZones = std::size_t{1} << 20;
    s->trace_ = std::make_unique<operators::Trace>(kZones);
    s->engine_->set_trace(s->trace_.get());
  }
  s->report_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return s;
}

placement::Plan Session::place(const Options& options) {
  if (options.rules.empty() &&
      (!options.plugins.empty() || options.emulate_gpus > 0 || !options.device.empty())) {
    fail(ErrorCode::kUsage, "--rules",
         "is missing: --plugin, --emulate-gpus and --device are for rules to choose from");
  }
  Place here;
  here.machine.ram = detect_topology().memory_available;
  here.packing = {cpu_->caps, cpu_->act, cpu_->pool.size()};
  here.devices = {options.emulate_gpus, true};
  if (options.emulate_gpus == 0) {
    gpu_machine_ = find_gpus(options, options.on_warning);
    here.machine.gpus = gpu_machine_.gpus;
    here.packing.gpus = !gpu_machine_.gpus.empty();
    here.devices = {static_cast<int>(gpu_machine_.gpus.size()), false};
  }
  return session::place(*source_, here, options, options.on_warning);
}

void Session::open_gpus(const Options& options) {
  for (const int index : placement::gpus_in_use(*model_, placement_)) {
    const std::size_t bytes = gpu_machine_.gpus[static_cast<std::size_t>(index)].bytes;
    gpus_.push_back(std::make_unique<backend::Gpu>(gpu_machine_.library, index, bytes));
  }
  check_gpu_kernels(*model_, *source_, gpus_, kv_format(options.kv));
  set_prefill_aside();
}

// Memory for the weights of the layer that layer-wise prefill is in.
void Session::set_prefill_aside() {
  auto* layered = dynamic_cast<operators::Layered*>(model_.get());
  if (layered == nullptr || placement_.layer_wise_threshold <= 0) return;
  for (const auto& gpu : gpus_) {
    std::size_t most = 0;
    for (std::int64_t i = 0; i < layered->n_layers(); ++i)
      most = std::max(most, operators::prefill_gpu_bytes(layered->layer(i), *source_, *gpu));
    if (most > 0) gpu->set_aside(most);
  }
}

void Session::open_streams(const Options& options, const placement::Plan& plan) {
  struct Largest {
    std::size_t expert = 0;  // bytes
    bool cached = false;
  };
  std::map<int, Largest> largest;  // on each GPU
  for (const placement::ModuleCost& m : plan.modules) {
    if (!m.streams_to) continue;
    const auto n = static_cast<std::size_t>(config().moe.n_experts);
    Largest& here = largest[*m.streams_to];
    here.expert = std::max(here.expert, static_cast<std::size_t>(m.bytes) / n);
    here.cached |= m.n_on_gpu > 0;
  }
  const operators::ExpertProfile profile = open_expert_profile(options, plan);
  for (const auto& gpu : gpus_) {
    const auto it = largest.find(gpu->index());
    if (it == largest.end()) continue;
    const auto& [expert, cached] = it->second;
    streams_.push_back(std::make_unique<operators::ExpertStream>(
        *gpu, operators::stream_sizes(expert, gpu->reserved()), placement_.stream_experts));
    if (cached) {
      caches_.push_back(std::make_unique<operators::ExpertCache>(*streams_.back(), expert,
                                                                 placement_.expert_cache, profile));
    }
  }
  lacks_expert_room_ = options.rules.empty() && !streams_.empty() && caches_.empty() &&
                       placement_.expert_cache != operators::ExpertCacheMode::kOff &&
                       std::none_of(plan.modules.begin(), plan.modules.end(), [](const auto& m) {
                         return m.part == placement::Part::kExperts && m.device != "cpu";
                       });
}

operators::ExpertProfile Session::open_expert_profile(const Options& options,
                                                      const placement::Plan& plan) const {
  if (options.expert_profile.empty()) return {};
  operators::ExpertProfile profile = read_expert_profile(options.expert_profile, config());
  for (const placement::ModuleCost& m : plan.modules) {
    if (m.n_on_gpu > 0 && !profile.contains(io::layer_of(m.path).value_or(-1)))
      fail(ErrorCode::kMismatch, options.expert_profile, "counts no experts of '{}'", m.path);
  }
  return profile;
}

void Session::use_nodes(const Options& options, const placement::Plan& plan) {
  if (!cpu_->place.several_nodes()) return;
  NodePlan nodes = plan_nodes(topology_for(options), cpu_->pool.size(), node_bytes(plan));
  report_.nodes = std::move(nodes.summary);
  const CpuCaps caps = cpu_->caps;
  cpu_.reset();  // gives the calling thread its CPUs back
  cpu_ = std::make_unique<backend::Cpu>(std::move(nodes.place), caps, act_policy(options.act));
}

// A step as large as prompts make them, so that temporaries are reserved before the first request,
// but for rows that decode beside it, and what is wrong with a GPU shows now.
void Session::try_gpus() {
  report_.gpus = gpu_machine_.left_out;
  if (gpus_.empty()) return;
  engine_->rehearse();
  for (const auto& cache : caches_) cache->start();
  for (const auto& gpu : gpus_) {
    report_.gpus +=
        fmt::format("{}{}: {}, {} in use of {} reserved", report_.gpus.empty() ? "" : "\n",
                    operators::gpu_name(gpu->index()), gpu->description().name,
                    human_bytes(gpu->used()), human_bytes(gpu->reserved()));
  }
  const auto add = [&](const auto& what) {
    if (const std::string text = what.describe(); !text.empty())
      report_.gpus += fmt::format("\n{}: {}", operators::gpu_name(what.gpu().index()), text);
  };
  for (const auto& stream : streams_) add(*stream);
  for (const auto& cache : caches_) add(*cache);
  if (lacks_expert_room_) report_.gpus += "\nno room for experts in GPU memory";
}

void Session::open_text(const Options& options) {
  if (!options.need_text) return;
  tokenizer_ = open_tokenizer(*source_);
  if (tokenizer_ == nullptr) {
    fail(ErrorCode::kNotFound, source_->path(),
         "has no tokenizer: put tokenizer.json beside the weights, or use a GGUF file with a "
         "vocabulary");
  }
  template_ = open_chat_template(*source_, options.chat_template);
}

std::vector<std::int32_t> Session::stop_tokens() const {
  std::set<std::int32_t> ids;
  for (const std::int64_t id : config().eos_tokens) ids.insert(static_cast<std::int32_t>(id));
  if (tokenizer_ != nullptr)
    ids.insert(tokenizer_->end_tokens().begin(), tokenizer_->end_tokens().end());
  return {ids.begin(), ids.end()};
}

const text::GrammarFactory& Session::grammars() const {
  if (tokenizer_ == nullptr)
    fail(ErrorCode::kUnsupported, source_->path(), "has no tokenizer, which grammars need");
  std::call_once(grammars_once_, [this] {
    const std::vector<std::int32_t> ends = stop_tokens();
    const auto n_vocab = static_cast<std::size_t>(engine_->vocab_size());
    grammars_ = std::make_unique<text::GrammarFactory>(*tokenizer_, ends, n_vocab);
  });
  return *grammars_;
}

}  // namespace kt::session
