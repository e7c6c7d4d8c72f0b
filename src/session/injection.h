// A model whose tree belongs to another program: Transformers modules in Python, some of them
// replaced by operators of ours as a rule file says. The operators are those of the native model;
// they are run one by one from outside, or all together, as Session does.
//
//   open: weights' headers + rule file + the other program's modules → what each module becomes
//   load: all of it, or only what rules replaced
//   run:  run_model on sequences, or run_module on rows
//
// Thread rule: one thread at a time.
#pragma once
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/sequences.h"
#include "placement/rules.h"
#include "session/session.h"

namespace kt::session {

/// The rule file, and the program whose modules it is for.
struct InjectionRules {
  placement::RuleFile file;
  std::vector<placement::ForeignModule> modules;
  std::map<std::string, std::string> missing;  // as placement::ForeignTree
  std::map<std::string, std::string> operators;
};

class Injection {
 public:
  /// Options::model names the weights, Options::device where undecided modules go;
  /// Options::context is a first guess that sequences may exceed. `hf_config`: the other program's
  /// config.json. Throws as Session::open, and kMismatch naming the key in which the configuration
  /// differs from that of the weights.
  static std::unique_ptr<Injection> open(const Options& options, const std::string& hf_config,
                                         const InjectionRules& rules);
  ~Injection();

  const io::WeightSource& source() const { return *source_; }
  const operators::Placement& placement() const { return placement_; }
  /// Formatted warnings about the rule file.
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// As placement::RuleResult, of the modules in their order.
  const std::vector<int>& decided_by() const { return decided_by_; }
  /// Of each module: its native path when it is one of the native model, and its kind.
  const std::vector<placement::ModuleNode>& nodes() const { return nodes_; }

  /// The native module of a path; null when there is none.
  operators::Module* find(const std::string& native_path) const;
  /// Reads all weights. Throws as models::load_model.
  void load_all();
  /// Reads the weights of these modules and of those below them, where they are not loaded yet.
  /// Throws kNotFound for unknown paths, and as models::load_model.
  void load(const std::vector<std::string>& native_paths);
  /// Gives the weights of a module and of those below it back.
  void unload(const std::string& native_path);

  /// Room for n_tokens at first.
  std::unique_ptr<engine::Sequences> make_sequences(std::int64_t n_tokens) const;
  /// Tokens for the end of a sequence, and for each where its logits [vocab_size] go; null:
  /// nowhere.
  struct Feed {
    std::int64_t sequence = 0;
    std::span<const std::int32_t> tokens;
    std::span<float* const> logits;
  };
  /// Runs the whole native model in chunks of chunk_size rows, each sequence once. `stop` is asked
  /// between chunks; true ends with kCancelled.
  void run_model(engine::Sequences& sequences, std::span<const Feed> feeds,
                 const std::function<bool()>& stop);

  // These throw kUsage where weights of the module or of one below it are not loaded.
  /// Rows through one module: y [n_rows, width of the output] of a Linear, Norm, Mlp or Moe.
  void run_module(operators::Module& module, tensor::ConstMatrixF x, tensor::MatrixF y);
  /// Σ weight · expert(x); ids, weights: [n_rows, n_active].
  void run_experts(operators::Module& module, tensor::ConstMatrixF x,
                   const operators::Routing& routing, tensor::MatrixF y);
  /// What a gate chooses; ids and weights must have room for [n_rows, n_active].
  void run_gate(operators::Module& module, tensor::ConstMatrixF x, std::int32_t* ids,
                float* weights);
  std::int64_t n_active() const { return config().moe.n_active; }
  /// Attention of layer `layer` over rows of sequences, which are not counted as cached yet.
  void run_attention(operators::Module& module, std::int64_t layer, engine::Sequences& sequences,
                     const engine::Sequences::Rows& rows, tensor::ConstMatrixF x,
                     tensor::MatrixF y);
  /// [n_tokens, d_model]
  void run_embedding(operators::Module& module, std::span<const std::int32_t> tokens,
                     tensor::MatrixF y);
  /// A tensor of the weights as floats; `out` has its shape's count. Throws kNotFound.
  void read(const std::string& name, float* out) const;
  const io::ModelConfig& config() const { return source_->config(); }
  std::int64_t vocab_size() const { return model_->vocab_size(); }
  /// The one generate loop over the loaded model, with a cache of its own of at least `context`
  /// tokens; valid until it is asked for with more. Throws kUsage when weights are missing.
  engine::Engine& engine(std::int64_t context);
  backend::Cpu& cpu() { return *cpu_; }

 private:
  Injection() = default;
  operators::Module& get(const std::string& native_path) const;
  void require_loaded(operators::Module& module) const;
  template <class F>
  void with_step(const operators::Batch& batch, std::span<const tensor::KvLayerView> kv, F&& run);
  template <class F>
  void with_rows(std::int64_t n_rows, F&& run);
  operators::Loader make_loader() { return {*source_, *cpu_, on_load_}; }

  Options options_;
  std::unique_ptr<io::WeightSource> source_;
  std::unique_ptr<backend::Cpu> cpu_;
  operators::Placement placement_;
  std::unique_ptr<operators::Model> model_;
  std::map<std::string, operators::Module*> modules_;
  std::set<const operators::Module*> loaded_;
  bool all_loaded_ = false;
  std::vector<std::string> warnings_;
  std::vector<int> decided_by_;
  std::vector<placement::ModuleNode> nodes_;
  operators::Loader::Progress on_load_;
  tensor::Arena arena_;
  std::unique_ptr<engine::Engine> engine_;  // kept: its memory is warm
  std::vector<std::int32_t> zeros_;         // tokens of rows that come from outside
};

}  // namespace kt::session
