#include "session/session.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "base/topology.h"
#include "io/hf_config.h"
#include "io/mmap_file.h"
#include "operators/plugin.h"
#include "placement/default_placement.h"
#include "placement/explain.h"
#include "placement/rules.h"
#include "session/choices.h"
#include "session/dummy_source.h"
#include "session/registry.h"
#include "session/text_parts.h"

namespace kt::session {
namespace {

using Clock = std::chrono::steady_clock;
using placement::human_bytes;

constexpr std::int64_t kDefaultContext = 8192;
constexpr std::uint64_t kHeadroom = std::uint64_t{256}
                                    << 20;  // program, tokenizer, file cache in use

std::unique_ptr<backend::Cpu> make_cpu(const Options& options) {
  const Topology topology = detect_topology();
  const int n_threads = options.n_threads > 0 ? options.n_threads : default_threads(topology);
  constexpr int kMaxThreads = 1024;
  if (options.n_threads < 0 || n_threads > kMaxThreads) {
    fail(ErrorCode::kUsage, "--threads", "{} threads: 1 to {} are possible", options.n_threads,
         kMaxThreads);
  }
  CpuCaps caps = detect_caps();
  if (!options.isa.empty()) caps = limit_caps(caps, options.isa);
  return std::make_unique<backend::Cpu>(n_threads, topology.cores, caps, act_policy(options.act));
}

std::uint64_t weight_bytes(const io::WeightSource& source) {
  std::uint64_t bytes = 0;
  for (const io::TensorInfo& t : source.tensors()) {
    bytes += formats::row_bytes(t.format, t.shape.n_cols()) *
             static_cast<std::uint64_t>(t.shape.n_rows());
  }
  return bytes;
}

// The context that fits, from the headers alone: the one wanted, or less when none was asked for.
// Refuses what cannot fit.
std::int64_t check_memory(const io::WeightSource& source, std::uint64_t weights,
                          std::uint64_t kv_per_token, std::int64_t context,
                          const Options& options) {
  constexpr std::uint64_t kUseful = 1024;  // tokens; a shorter context is not chosen silently
  const std::int64_t chunk = std::min(options.chunk_size, context);
  const io::ModelConfig& c = source.config();
  const std::uint64_t available = detect_topology().memory_available;
  const auto widest = static_cast<std::uint64_t>(
      std::max({c.d_ff, c.moe.d_ff * std::max<std::int64_t>(1, c.moe.n_active), 8 * c.d_model}));
  const std::uint64_t workspace = static_cast<std::uint64_t>(chunk) * widest * 4 * sizeof(float);
  const std::uint64_t kv = kv_per_token * static_cast<std::uint64_t>(context);
  const std::uint64_t total = weights + kv + workspace + kHeadroom;
  if (total <= available) return context;
  const std::uint64_t fixed = weights + workspace + kHeadroom;
  if (options.context == 0 && available > fixed + kv_per_token * kUseful) {
    return static_cast<std::int64_t>((available - fixed) / kv_per_token / 64 * 64);
  }
  const std::string hint =
      available > fixed + kv_per_token * 64
          ? fmt::format("--ctx {} would fit", (available - fixed) / kv_per_token / 64 * 64)
          : std::string("use a file with fewer bits per weight, or a machine with more memory");
  fail(ErrorCode::kNoMemory, source.path(),
       "needs {} of memory, {} are available: weights {}, cache for {} tokens {}, workspace {}, "
       "other {}; {}",
       human_bytes(total), human_bytes(available), human_bytes(weights), context, human_bytes(kv),
       human_bytes(workspace), human_bytes(kHeadroom), hint);
}

std::int64_t choose_context(const Options& options, const io::ModelConfig& config) {
  if (options.context < 0) {
    fail(ErrorCode::kUsage, "--ctx", "{} is not a context length; at least 1 is needed",
         options.context);
  }
  if (options.context == 0)
    return std::min(config.max_context, kDefaultContext);  // check_memory may lower it
  if (options.context > config.max_context) {
    fail(ErrorCode::kUsage, "--ctx", "{} tokens are more than this model's {}", options.context,
         config.max_context);
  }
  return options.context;
}

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

Session::~Session() = default;

std::unique_ptr<Session> Session::open(const Options& options) {
  return assemble(options, io::open_weights(resolve_model(options.model)));
}

std::unique_ptr<Session> Session::open_dummy(const Options& options, const std::string& config_path,
                                             const std::string& type, std::int64_t layers) {
  const io::MmapFile file(config_path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.size());
  io::ModelConfig config = io::parse_hf_config(text, {}, config_path).model;
  if (layers < 0 || layers > config.n_layers) {
    fail(ErrorCode::kUsage, "--layers", "{} layers: the model has {}", layers, config.n_layers);
  }
  if (layers > 0) config.n_layers = layers;
  Options textless = options;
  textless.need_text = false;
  return assemble(textless,
                  make_dummy_source(config, file_type(type), {.seed = 1, .pooled = true}));
}

std::unique_ptr<Session> Session::assemble(const Options& options,
                                           std::unique_ptr<io::WeightSource> source) {
  if (options.chunk_size < 1)
    fail(ErrorCode::kUsage, "--chunk", "{} rows: at least 1 is needed", options.chunk_size);
  std::unique_ptr<Session> s(new Session);
  s->source_ = std::move(source);
  s->place(options);
  s->cpu_ = make_cpu(options);
  s->model_ = models::build_model(s->config(), s->placement_);
  engine::EngineOptions engine_options;
  engine_options.context = choose_context(options, s->config());
  engine_options.kv_format = kv_format(options.kv);
  const std::uint64_t kv_per_token =
      engine::kv_bytes_per_token(s->model_->state_spec(), engine_options.kv_format);
  s->report_.file_bytes = weight_bytes(*s->source_);
  engine_options.context = check_memory(*s->source_, s->report_.file_bytes, kv_per_token,
                                        engine_options.context, options);
  engine_options.chunk_size = std::min(options.chunk_size, engine_options.context);
  s->report_.kv_bytes = kv_per_token * static_cast<std::uint64_t>(engine_options.context);
  s->open_text(options);
  const auto start = Clock::now();
  operators::Loader loader(*s->source_, *s->cpu_, make_progress(options, s->report_.file_bytes));
  models::load_model(*s->model_, loader);
  operators::walk(*s->model_,
                  [&](operators::Module& m) { s->report_.packed_bytes += m.weight_bytes(); });
  engine_options.layer_wise_threshold = s->placement_.layer_wise_threshold;
  engine_options.make_loader = [self = s.get()] {
    return operators::Loader(*self->source_, *self->cpu_, {});
  };
  s->engine_ = std::make_unique<engine::Engine>(*s->model_, *s->cpu_, engine_options);
  if (options.trace || !options.trace_file.empty()) {
    constexpr std::size_t kZones = std::size_t{1} << 20;
    s->trace_ = std::make_unique<operators::Trace>(kZones);
    s->engine_->set_trace(s->trace_.get());
  }
  s->report_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return s;
}

void Session::place(const Options& options) {
  if (options.rules.empty()) {
    if (!options.plugins.empty()) {
      fail(ErrorCode::kUsage, "--plugin",
           "brings operators that only a rule can choose; give a rule file with --rules");
    }
    placement_ = placement::default_placement(config());
    return;
  }
  const auto catalogue = std::make_shared<operators::Catalogue>();
  for (const std::string& path : options.plugins) operators::load_plugin(*catalogue, path);
  const placement::RuleContext context{config(),
                                       catalogue,
                                       {options.emulate_gpus, true},
                                       options.device.empty() ? "cpu" : options.device};
  placement::RuleResult result = placement::read_rules(options.rules, context);
  placement_ = std::move(result.placement);
  for (const std::string& warning : result.warnings) {
    if (options.on_warning) options.on_warning(warning);
  }
}

void Session::open_text(const Options& options) {
  if (!options.need_text) return;
  tokenizer_ = open_tokenizer(*source_);
  if (tokenizer_ == nullptr) {
    fail(ErrorCode::kNotFound, source_->path(),
         "has no tokenizer: put tokenizer.json beside the weights, or use a GGUF file with a "
         "vocabulary");
  }
  const std::string source = chat_template_source(*source_);
  if (!source.empty()) {
    template_ =
        std::make_unique<text::ChatTemplate>(text::ChatTemplate::compile(source, source_->path()));
  }
}

std::vector<std::int32_t> Session::stop_tokens() const {
  std::set<std::int32_t> ids;
  for (const std::int64_t id : config().eos_tokens) ids.insert(static_cast<std::int32_t>(id));
  if (tokenizer_ != nullptr)
    ids.insert(tokenizer_->end_tokens().begin(), tokenizer_->end_tokens().end());
  return {ids.begin(), ids.end()};
}

}  // namespace kt::session
