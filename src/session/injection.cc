#include "session/injection.h"

#include <algorithm>

#include "base/topology.h"
#include "io/hf_config.h"
#include "models/model.h"
#include "operators/plugin.h"
#include "session/choices.h"
#include "session/registry.h"

namespace kt::session {
namespace {

// Kimi-K2 is a DeepSeek-V3 with other numbers, Mistral a Llama; GGUF files do not tell them apart.
std::string_view family(const io::ModelConfig& c) {
  if (c.architecture == "kimi_k2") return "deepseek_v3";
  return c.architecture == "mistral" ? "llama" : std::string_view(c.architecture);
}

// Weights of another model, or another size of it, would be found out tensor by tensor otherwise.
void check_same_model(const io::ModelConfig& theirs, const io::WeightSource& source) {
  const io::ModelConfig& ours = source.config();
  if (family(theirs) != family(ours)) {
    fail(ErrorCode::kMismatch, source.path(), "the weights are of type {}, the model is {}",
         ours.architecture, theirs.architecture);
  }
  const bool latent = ours.mla.kv_lora_rank > 0;  // then the sizes of heads are not these
  const struct {
    const char* key;
    std::int64_t ours, theirs;
  } sizes[] = {
      {"num_hidden_layers", ours.n_layers, theirs.n_layers},
      {"hidden_size", ours.d_model, theirs.d_model},
      {"vocab_size", ours.vocab_size, theirs.vocab_size},
      {"num_attention_heads", ours.n_heads, theirs.n_heads},
      {"num_key_value_heads", latent ? 0 : ours.n_kv_heads, latent ? 0 : theirs.n_kv_heads},
      {"head_dim", latent ? 0 : ours.head_dim, latent ? 0 : theirs.head_dim},
      {"kv_lora_rank", ours.mla.kv_lora_rank, theirs.mla.kv_lora_rank},
      {"number of experts", ours.moe.n_experts, theirs.moe.n_experts},
      {"num_experts_per_tok", ours.moe.n_active, theirs.moe.n_active},
  };
  for (const auto& size : sizes) {
    if (size.ours == size.theirs) continue;
    fail(ErrorCode::kMismatch, source.path(), "{} is {} in the weights, {} in the model", size.key,
         size.ours, size.theirs);
  }
}

}  // namespace

Injection::~Injection() = default;

std::unique_ptr<Injection> Injection::open(const Options& options, const std::string& hf_config,
                                           const InjectionRules& rules) {
  if (options.chunk_size < 1)
    fail(ErrorCode::kUsage, "chunk_size", "{} rows: at least 1 is needed", options.chunk_size);
  std::unique_ptr<Injection> s(new Injection);
  s->options_ = options;
  s->source_ = io::open_weights(resolve_model(options.model));
  check_same_model(io::parse_hf_config(hf_config, "", "model_config").model, *s->source_);
  s->cpu_ = make_cpu(options);

  const auto catalogue = std::make_shared<operators::Catalogue>();
  for (const std::string& path : options.plugins) operators::load_plugin(*catalogue, path);
  const placement::ForeignTree tree{placement::foreign_nodes(s->config(), rules.modules),
                                    rules.missing, rules.operators};
  placement::RuleContext context{s->config(), catalogue, {options.emulate_gpus, true}};
  if (!options.device.empty()) context.default_device = options.device;
  context.foreign = &tree;
  context.gpu_hint = "device_map={{'cuda': 'cpu'}} lets the CPU stand in for GPUs";
  placement::RuleResult decided = placement::apply_rules(rules.file, context);

  placement::PlanOptions plan_options;
  plan_options.context = options.context;
  plan_options.chunk_size = options.chunk_size;
  plan_options.kv_format = kv_format(options.kv);
  plan_options.packing = {s->cpu_->caps, s->cpu_->act, s->cpu_->pool.size()};
  plan_options.given = &decided.placement;
  placement::Machine machine;
  machine.ram = detect_topology().memory_available;
  placement::Plan plan = placement::plan(*s->source_, machine, plan_options);
  s->placement_ = std::move(plan.placement);
  s->model_ = std::move(plan.model);
  s->warnings_ = std::move(decided.warnings);
  s->decided_by_ = std::move(decided.decided_by);
  s->nodes_ = tree.nodes;
  operators::walk(*s->model_, [&](operators::Module& m) { s->modules_.emplace(m.path(), &m); });
  s->on_load_ = [on_load = options.on_load, total = plan.file_bytes](std::uint64_t done) {
    if (on_load) on_load(std::min(done, total), total, 0.0);
  };
  return s;
}

operators::Module* Injection::find(const std::string& native_path) const {
  const auto it = modules_.find(native_path);
  return it == modules_.end() ? nullptr : it->second;
}

operators::Module& Injection::get(const std::string& native_path) const {
  operators::Module* module = find(native_path);
  if (module == nullptr) fail(ErrorCode::kNotFound, native_path, "the model has no such module");
  return *module;
}

void Injection::load_all() {
  operators::Loader loader = make_loader();
  models::load_model(*model_, loader);
  operators::walk(*model_, [&](operators::Module& m) { loaded_.insert(&m); });
  all_loaded_ = true;
}

void Injection::load(const std::vector<std::string>& native_paths) {
  std::set<const operators::Module*> chosen;
  for (const std::string& path : native_paths) {
    operators::walk(get(path), [&](operators::Module& m) {
      if (!loaded_.contains(&m)) chosen.insert(&m);
    });
  }
  operators::Loader loader = make_loader();
  for (const operators::Module* module : chosen) module->check(*source_);
  bool all = true;
  operators::walk(*model_, [&](operators::Module& m) {
    if (chosen.contains(&m)) {
      m.load(loader);
      loaded_.insert(&m);
    }
    all = all && loaded_.contains(&m);
  });
  all_loaded_ = all;
}

void Injection::unload(const std::string& native_path) {
  operators::Module& root = get(native_path);
  all_loaded_ = false;
  operators::walk(root, [&](operators::Module& m) {
    m.unload();
    loaded_.erase(&m);
  });
}

void Injection::require_loaded(operators::Module& module) const {
  if (all_loaded_) return;
  operators::walk(module, [&](operators::Module& m) {
    if (!loaded_.contains(&m) && !m.weights().empty())
      fail(ErrorCode::kUsage, m.path(), "its weights are not loaded; call load() before");
  });
}

std::unique_ptr<engine::Sequences> Injection::make_sequences(std::int64_t n_tokens) const {
  return std::make_unique<engine::Sequences>(*model_, *cpu_, kv_format(options_.kv),
                                             std::max<std::int64_t>(n_tokens, 1));
}

template <class F>
void Injection::with_step(const operators::Batch& batch, std::span<const tensor::KvLayerView> kv,
                          F&& run) {
  arena_.reset();
  operators::Step step{batch, *cpu_, arena_, kv};
  run(step);
}

template <class F>
void Injection::with_rows(std::int64_t n_rows, F&& run) {
  if (static_cast<std::int64_t>(zeros_.size()) < n_rows)
    zeros_.resize(static_cast<std::size_t>(n_rows));
  const std::span<const std::int32_t> rows(zeros_.data(), static_cast<std::size_t>(n_rows));
  with_step({rows, rows, {}, {}}, {}, run);
}

void Injection::run_model(engine::Sequences& sequences, std::span<const Feed> feeds,
                          const std::function<bool()>& stop) {
  require_loaded(*model_);
  const std::int64_t chunk = options_.chunk_size;
  std::vector<std::size_t> done(feeds.size());
  while (true) {
    // As the engine packs them: chunks end on the same grid whatever else is in the batch.
    std::vector<engine::Sequences::Feed> batch;
    std::vector<float*> outputs;
    std::vector<std::int32_t> logit_rows;
    std::int64_t n_rows = 0;
    for (std::size_t i = 0; i < feeds.size(); ++i) {
      const Feed& feed = feeds[i];
      const auto left = static_cast<std::int64_t>(feed.tokens.size() - done[i]);
      const std::int64_t n = std::min(left, chunk - sequences.length(feed.sequence) % chunk);
      if (n == 0 || (n_rows + n > chunk && n_rows > 0)) continue;
      batch.push_back({feed.sequence, feed.tokens.subspan(done[i], static_cast<std::size_t>(n))});
      for (std::int64_t r = 0; r < n; ++r) {
        float* out = feed.logits[done[i] + static_cast<std::size_t>(r)];
        if (out == nullptr) continue;
        logit_rows.push_back(static_cast<std::int32_t>(n_rows + r));
        outputs.push_back(out);
      }
      done[i] += static_cast<std::size_t>(n);
      n_rows += n;
    }
    if (batch.empty()) return;
    if (stop && stop()) fail(ErrorCode::kCancelled, {}, "stopped");
    engine::Sequences::Rows rows = sequences.append(batch);
    rows.logit_rows = std::move(logit_rows);
    with_step(rows.batch(), sequences.kv(), [&](operators::Step& step) {
      const tensor::MatrixF logits =
          arena_.matrix(static_cast<std::int64_t>(outputs.size()), vocab_size());
      model_->run(step, logits);
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        const float* row = logits.row(static_cast<std::int64_t>(i));
        std::copy(row, row + vocab_size(), outputs[i]);
      }
    });
    sequences.commit(rows);
  }
}

void Injection::run_module(operators::Module& module, tensor::ConstMatrixF x, tensor::MatrixF y) {
  require_loaded(module);
  with_rows(x.n_rows, [&](operators::Step& step) {
    operators::Activation input(step, x), output = operators::Activation::on(step, y);
    if (auto* linear = dynamic_cast<operators::Linear*>(&module)) {
      linear->run(step, input, output);
    } else if (auto* norm = dynamic_cast<operators::Norm*>(&module)) {
      norm->run(step, input, nullptr, output);
    } else if (auto* mlp = dynamic_cast<operators::Mlp*>(&module)) {
      mlp->run(step, input, output);
    }
  });
}

void Injection::run_experts(operators::Module& module, tensor::ConstMatrixF x,
                            const operators::Routing& routing, tensor::MatrixF y) {
  auto& experts = dynamic_cast<operators::Experts&>(module);
  require_loaded(module);
  with_rows(x.n_rows, [&](operators::Step& step) {
    operators::Activation input(step, x);
    operators::Routing wanted = routing;
    auto ticket = experts.submit(step, input, wanted);
    for (std::int64_t r = 0; r < y.n_rows; ++r) std::fill(y.row(r), y.row(r) + y.n_cols, 0.0f);
    operators::Activation sum = operators::Activation::on(step, y);
    experts.collect(step, ticket, sum);
  });
}

void Injection::run_gate(operators::Module& module, tensor::ConstMatrixF x, std::int32_t* ids,
                         float* weights) {
  auto& gate = dynamic_cast<operators::Gate&>(module);
  require_loaded(module);
  with_rows(x.n_rows, [&](operators::Step& step) {
    operators::Activation input(step, x);
    const operators::Routing routing = gate.run(step, input);
    const std::int64_t n = x.n_rows * routing.n_active;
    std::copy(routing.ids, routing.ids + n, ids);
    std::copy(routing.weights, routing.weights + n, weights);
  });
}

void Injection::run_attention(operators::Module& module, std::int64_t layer,
                              engine::Sequences& sequences, const engine::Sequences::Rows& rows,
                              tensor::ConstMatrixF x, tensor::MatrixF y) {
  auto& attention = dynamic_cast<operators::Attention&>(module);
  require_loaded(module);
  auto& rotary = dynamic_cast<operators::Rotary&>(*find("model.rotary_emb"));
  with_step(rows.batch(), sequences.kv(), [&](operators::Step& step) {
    rotary.prepare(step);
    operators::Activation input(step, x), output = operators::Activation::on(step, y);
    attention.run(step, layer, input, output);
  });
}

void Injection::run_embedding(operators::Module& module, std::span<const std::int32_t> tokens,
                              tensor::MatrixF y) {
  auto& embedding = dynamic_cast<operators::Embedding&>(module);
  require_loaded(module);
  with_step({tokens, tokens, {}, {}}, {}, [&](operators::Step& step) {
    operators::Activation rows = operators::Activation::on(step, y);
    embedding.run(step, rows);
  });
}

void Injection::read(const std::string& name, float* out) const {
  const io::TensorInfo* info = source_->find(name);
  if (info == nullptr) fail(ErrorCode::kNotFound, name, "the weights have no such tensor");
  const formats::FormatTraits& traits = formats::traits(info->format);
  const std::int64_t n_cols = info->shape[info->shape.rank() - 1];
  const std::int64_t n_rows = info->shape.count() / n_cols;
  const std::size_t row_bytes = formats::row_bytes(info->format, n_cols);
  constexpr std::size_t kBlock = std::size_t{1} << 22;
  const auto n_block = static_cast<std::int64_t>(std::max<std::size_t>(kBlock / row_bytes, 1));
  std::vector<std::byte> stored(row_bytes * static_cast<std::size_t>(std::min(n_block, n_rows)));
  for (std::int64_t begin = 0; begin < n_rows; begin += n_block) {
    const std::int64_t n = std::min(n_block, n_rows - begin);
    source_->read_rows(*info, begin, n, stored.data());
    cpu_->pool.run(n, [&](std::int64_t r, int) {
      traits.decode(stored.data() + static_cast<std::size_t>(r) * row_bytes,
                    out + (begin + r) * n_cols, n_cols);
    });
  }
  source_->drop(*info);
}

engine::Engine& Injection::engine(std::int64_t context) {
  require_loaded(*model_);
  if (engine_ != nullptr && engine_->options().context >= context) return *engine_;
  engine::EngineOptions options;
  options.context = context;
  options.kv_format = kv_format(options_.kv);
  options.chunk_size = std::min(options_.chunk_size, context);
  options.layer_wise_threshold = placement_.layer_wise_threshold;
  options.make_loader = [this] { return operators::Loader(*source_, *cpu_, {}); };
  engine_.reset();
  engine_ = std::make_unique<engine::Engine>(*model_, *cpu_, options);
  return *engine_;
}

}  // namespace kt::session
