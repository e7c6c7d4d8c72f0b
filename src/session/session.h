// The composition root: opens a model file, decides placement, builds and loads the tree, and holds
// engine, tokenizer and template together. The only place that names concrete backends. Thread
// rule: one thread opens and drives a Session.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "io/weight_source.h"
#include "models/model.h"
#include "operators/hot_experts.h"
#include "session/gpu_machine.h"
#include "session/placing.h"
#include "text/chat_template.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace kt::operators {
class ExpertCache;
class ExpertStream;
}  // namespace kt::operators

namespace kt::session {

struct Options : RunOptions {
  std::string model;                // path, or a name of the registry (registry.h)
  std::string isa;                  // empty: the best; else ref, avx2, avx512, amx
  int emulate_gpus = 0;             // GPUs that the CPU stands in for
  std::string gpu_graphs = "on";    // or "off": steps on GPUs are launched kernel by kernel
  std::int64_t defer_experts = 0;   // of each token's: added a layer later, while decoding
  std::string expert_profile;       // file of uses that experts on GPUs begin with; empty: none
  std::string save_expert_profile;  // file for those of this session, at its end; empty: none
  int emulate_nodes = 0;            // NUMA nodes to make of this machine; 0: those it has
  std::string speculate = "none";   // or "prompt-lookup"
  bool trace = false;               // record trace zones
  std::string trace_file;           // Chrome trace that the caller writes at the end; empty: none
  std::string chat_template;        // file to take instead of the model's own; empty: none
  bool need_text = true;            // false: a missing tokenizer is no error
  std::shared_ptr<io::PageStore> page_store;  // engine/engine.h; sessions may share it
  /// Loading progress, called a few times per second: bytes done, bytes in all, bytes per second.
  std::function<void(std::uint64_t done, std::uint64_t total, double rate)> on_load;
  /// A warning of one or more whole lines: about the rule file or the flags, before weights are
  /// read; at the session's end that save_expert_profile could not be written.
  OnWarning on_warning;
};

/// The CPU as n_threads, isa and act say. Throws kUsage, kUnsupported.
std::unique_ptr<backend::Cpu> make_cpu(const Options& options);

struct LoadReport {
  double seconds = 0.0;
  std::uint64_t file_bytes = 0;
  std::uint64_t packed_bytes = 0;
  std::uint64_t kv_bytes = 0;
  std::string nodes;  // for people, a line or two: where weights lie on several NUMA nodes
  std::string gpus;   // for people, a line for each GPU in use or left out; empty: none
};

class Session {
 public:
  /// Throws kt::Error; kNoMemory comes from the headers, before weights are read, with the table of
  /// what is needed and what there is.
  static std::unique_ptr<Session> open(const Options& options);
  /// A model of random weights of config.json's shape in a file type ("Q4_K_M"), never on disk
  /// (`layers` > 0 cuts it to so many layers; `router_skew` as in DummyOptions).
  static std::unique_ptr<Session> open_dummy(const Options& options, const std::string& config_path,
                                             const std::string& type, std::int64_t layers,
                                             double router_skew = 0.0);
  ~Session();

  const io::WeightSource& source() const { return *source_; }
  const io::ModelConfig& config() const { return source_->config(); }
  operators::Model& model() { return *model_; }
  engine::Engine& engine() { return *engine_; }
  const engine::Engine& engine() const { return *engine_; }
  /// The zones of all requests so far; null without Options::trace.
  operators::Trace* trace() { return trace_.get(); }
  backend::Cpu& cpu() { return *cpu_; }
  const operators::Placement& placement() const { return placement_; }
  /// The GPUs as they were before this session took their memory.
  const GpuMachine& gpu_machine() const { return gpu_machine_; }
  const text::Tokenizer* tokenizer() const { return tokenizer_.get(); }        // may be null
  const text::ChatTemplate* chat_template() const { return template_.get(); }  // may be null
  /// Built by the first caller; any thread. Throws kUnsupported without a tokenizer or end tokens.
  const text::GrammarFactory& grammars() const;
  const LoadReport& load_report() const { return report_; }
  /// Ids that end a reply: the model's eos list and the tokenizer's end-of-turn tokens.
  std::vector<std::int32_t> stop_tokens() const;

 private:
  Session() = default;
  static std::unique_ptr<Session> assemble(const Options& options,
                                           std::unique_ptr<io::WeightSource> source);
  /// What the rule file or the planner decides, checked that it fits.
  placement::Plan place(const Options& options);
  /// Reserves the memory of the GPUs that the model's modules are on, and checks their kernels.
  void open_gpus(const Options& options);
  void set_prefill_aside();
  /// On GPUs that experts of the CPU go to.
  void open_streams(const Options& options, const placement::Plan& plan);
  /// What Options::expert_profile says of the layers that the plan wants it for.
  operators::ExpertProfile open_expert_profile(const Options& options,
                                               const placement::Plan& plan) const;
  void try_gpus();
  /// With several NUMA nodes: the CPU anew, as the nodes' memory allows.
  void use_nodes(const Options& options, const placement::Plan& plan);
  void open_text(const Options& options);
  std::unique_ptr<io::WeightSource> source_;
  GpuMachine gpu_machine_;
  std::vector<std::unique_ptr<backend::Gpu>> gpus_;
  std::vector<std::unique_ptr<operators::ExpertStream>> streams_;
  std::vector<std::unique_ptr<operators::ExpertCache>> caches_;
  operators::Placement placement_;
  std::unique_ptr<backend::Cpu> cpu_;
  std::unique_ptr<operators::Model> model_;
  std::unique_ptr<operators::Trace> trace_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<text::ChatTemplate> template_;
  mutable std::once_flag grammars_once_;
  mutable std::unique_ptr<text::GrammarFactory> grammars_;
  LoadReport report_;
  std::string save_expert_profile_;
  OnWarning on_warning_;
  bool lacks_expert_room_ = false;  // on GPUs, that the planner would use
};

}  // namespace kt::session
