// The one generate loop of the project: requests in, tokens out; token ids only, no text.
//
// step() collects rows (one of every decoding request, then prompt chunks up to chunk_size), runs
// the model on them, and samples. A request's sequence stays cached when it ends, so that a
// later prompt with the same beginning (the next turn of a chat) skips it; sequences share the
// pages they have in common. When pages are short, cached sequences give way from their ends, to a
// page store if there is one; then the request that came last, which waits again and computes anew
// what it had. Rows of a request are computed the same way whatever else is in the step, which
// where many rows are computed otherwise takes a batch for each chunk of backend::kBatchRows or
// more. Prompt chunks end at fixed multiples of chunk_size counted from the sequence's start.
// Thread rule: one thread drives an Engine; cancel() may come from any thread or a signal handler.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/constraint.h"
#include "engine/kv_pool.h"
#include "engine/prompt_lookup.h"
#include "engine/sampler.h"
#include "engine/step_graphs.h"
#include "engine/step_logits.h"
#include "io/page_store.h"
#include "operators/kinds.h"
#include "operators/layered.h"

namespace kt::engine {

struct EngineOptions {
  std::int64_t context = 4096;    // tokens per sequence
  std::int64_t kv_tokens = 0;     // tokens in the pool; 0: context
  std::int64_t chunk_size = 512;  // prompt rows per step
  tensor::Format kv_format = tensor::Format::kF16;
  /// Prompts with more rows than this to run go layer by layer, with the prefill operators of the
  /// placement (operators/phased.h), while other requests wait; 0: none. Their hidden rows are held
  /// for the whole prompt.
  std::int64_t layer_wise_threshold = 0;
  /// Reads the model's weights again when operators change.
  std::function<operators::Loader()> make_loader;
  /// Before the model runs n_rows rows: a step, or a prompt layer by layer. What it throws ends
  /// that.
  std::function<void(operators::GpuSteps gpus, std::int64_t n_rows)> before_step;
  /// Where whole pages of the cache go that give way, and come back from; null: nowhere. Engines
  /// may share it. `kv_identity` names what rows depend on beside the tokens (weights, numerics).
  std::shared_ptr<io::PageStore> page_store;
  std::string kv_identity;
  bool gpu_graphs = true;          // replays steps of few rows on GPUs instead of launching them
  std::int64_t defer_experts = 0;  // in steps of decoding (operators::Deferral)
  bool prompt_lookup = false;      // guesses tokens from the text (engine/prompt_lookup.h)
};

enum class FinishReason {
  kNone,
  kStopToken,
  kMaxTokens,
  kContextFull,
  kCallback,
  kCancelled,
  kError
};

inline constexpr std::int32_t kMaxTopLogprobs = 20;

struct Request {
  std::vector<std::int32_t> prompt;  // at least one token
  SamplingParams sampling;
  std::int64_t max_tokens = -1;           // generated tokens at most; -1: until the context is full
  std::vector<std::int32_t> stop_tokens;  // end of sequence; not reported as output
  bool ignore_stop_tokens = false;
  bool prompt_by_decode = false;  // feed the prompt one row per step (the decode path)
  bool reuse_prefix = true;
  bool logprobs = true;                         // of the tokens; they cost a little
  std::int32_t n_top_logprobs = 0;              // 0 to kMaxTopLogprobs, for SampledToken::top
  std::shared_ptr<TokenConstraint> constraint;  // of the generated tokens; may be null
  /// Called for each generated token; false stops the request.
  std::function<bool(const SampledToken&)> on_token;
  /// Called for every prompt row, in order, with its logits; makes the whole prompt run (no prefix
  /// reuse). When a request beside others waits again for room, rows come anew from the first.
  std::function<void(std::int64_t row, std::span<const float> logits)> on_prompt_logits;
  /// Called after each prompt chunk.
  std::function<void(std::int64_t done, std::int64_t total)> on_prefill;
  /// Set from any thread, it ends this request at the next step; may be null.
  std::shared_ptr<const std::atomic<bool>> cancelled;
};

/// What a finished request did; times in seconds of wall clock.
struct Result {
  FinishReason reason = FinishReason::kNone;
  std::string error;                 // with kError
  std::exception_ptr exception;      // with kError, when one ended the request: of a callback, say
  std::vector<std::int32_t> tokens;  // generated
  SampledToken stop_token;           // that ended it, with kStopToken; id -1: a constraint did
  std::int64_t n_prompt = 0;
  std::int64_t n_cached = 0;    // prompt tokens taken from the cache
  std::int64_t n_decoded = 0;   // tokens out of decode steps; the first comes from the prefill
  std::int64_t n_drafted = 0;   // guessed tokens that were computed (EngineOptions::prompt_lookup)
  std::int64_t n_accepted = 0;  // of those, the ones that came
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::chrono::steady_clock::time_point started{};  // of its first step; the epoch: never
};

class Engine {
 public:
  /// Reserves the cache. `gpus`: those that the model's modules are on. Throws kNoMemory.
  Engine(operators::Model& model, backend::Cpu& cpu, const EngineOptions& options,
         std::span<const std::unique_ptr<backend::Gpu>> gpus = {});
  ~Engine();
  const EngineOptions& options() const { return options_; }
  std::int64_t vocab_size() const { return model_.vocab_size(); }
  /// Share of the cache's pages that hold tokens, of finished requests too.
  double cache_used() const {
    return 1.0 - static_cast<double>(pool_.n_free()) / static_cast<double>(pool_.n_pages());
  }

  /// Of all steps so far.
  const operators::ExpertUse& expert_use() const { return expert_use_; }
  /// Tokens chosen so far, and how many of them from a list while their row stayed on a GPU.
  struct Choices {
    std::uint64_t n = 0, n_from_lists = 0;
  };
  const Choices& choices() const { return choices_; }

  using RequestId = std::uint64_t;
  /// Queues a request. Throws kTooLong when the prompt leaves no room in the context (with both
  /// numbers), kUsage for an empty prompt, ids outside the vocabulary or bad sampling parameters.
  RequestId submit(Request request);
  /// Runs one step; false when nothing is queued or running. An exception from what is done for one
  /// request alone (its callbacks, sampling) ends that request, and an error of a GPU that works
  /// again those whose rows it computed; any other is thrown, and ends none.
  bool step();
  /// The outcome of a finished request, handed out once; null while it runs.
  std::unique_ptr<Result> take_result(RequestId id);
  /// submit + step until it is done. Throws like submit and step, what the request's callbacks
  /// throw, and kInternal on NaN logits.
  Result generate(Request request);
  /// The final hidden state of a text, [d_model]: the mean over its tokens, or the last one's. Runs
  /// at once, while other requests wait. Throws like submit; kNoMemory when running requests hold
  /// the cache, kInternal on NaN.
  enum class Pooling { kMean, kLast };
  std::vector<float> embed(std::vector<std::int32_t> tokens, Pooling pooling);
  /// One step as large as prompts make them, and one of decoding, launched and replayed, which
  /// leave nothing behind but the memory of their temporaries; before the first request. Throws
  /// kInternal when a GPU fails, the logits are no numbers, or a replay gives others.
  void rehearse();
  /// Zones of every module from now on go to `trace`; null: none. It must outlive the engine.
  void set_trace(operators::Trace* trace) { trace_ = trace; }
  /// Ends the running requests at the next step. Async-signal-safe.
  void cancel() { cancel_.store(true, std::memory_order_relaxed); }

 private:
  struct Sequence;
  // A batch being put together.
  struct Rows {
    std::vector<std::int32_t> tokens, positions, logit_rows;
    std::vector<operators::SequenceRows> sequences;
    std::vector<Sequence*> owners;  // of each entry of sequences
    std::vector<float> list_scales;
    bool lists = false;         // will do for some of the logits
    bool every_row = false;     // of a prompt wants its logits
    std::int64_t max_keys = 0;  // take memory for so many, where sequences have fewer
    bool in_pieces() const {
      return every_row && std::ssize(logit_rows) > StepLogits::kMostInPiece;
    }
    operators::Batch batch() const {
      const bool listed = lists && !in_pieces() && list_scales.size() <= StepLogits::kMostListed;
      return {tokens, positions, sequences, logit_rows,
              listed ? std::span(list_scales) : std::span<const float>()};
    }
  };
  void check(const Request& request) const;
  void embed_chunk(Sequence& sequence, std::int64_t n, Pooling pooling, std::vector<float>& sum);
  template <class F>
  void for_one(Sequence& sequence, F&& f);
  void start_queued();
  bool start(Sequence& sequence);
  void reuse_prefix(Sequence& sequence);
  bool load_stored(Sequence& sequence);
  void store(Sequence& sequence, std::int64_t page, io::PageStore::IfBusy if_busy);
  const Sha256& page_key(Sequence& sequence, std::int64_t page);
  bool ensure_pages(Sequence& sequence, std::int64_t n_tokens);
  std::int64_t to_chunk_end(std::int64_t position) const;
  bool make_room(std::vector<Sequence*>& running, std::size_t i, std::int64_t n_tokens);
  std::vector<Rows> collect_rows(bool* decodes_only);
  void add_rows(Sequence& sequence, std::int64_t position, std::int64_t n, Rows& rows);
  void prepare(std::int64_t n_rows);
  static operators::StepShape shape_of(const Rows& rows);
  template <class F>
  void with_step(const Rows& rows, F&& run, const StepGraphs::Programs* programs = nullptr);
  StepLogits run_rows(const Rows& rows);
  StepLogits in_pieces(std::vector<float> hidden);
  std::vector<float> try_rows(Sequence& sequence, std::int64_t n);
  bool run_or_end(const Rows& rows, StepLogits* logits);
  void end_all();
  void rehearse_layer_wise(Sequence& sequence);
  bool goes_layer_wise(const Sequence& sequence) const;
  void run_layer_wise(Sequence& sequence);
  bool run_layers(const Sequence& sequence, const std::vector<Rows>& chunks, tensor::MatrixF x,
                  tensor::MatrixF delta);
  void take_outputs(Sequence& sequence, std::int64_t n_rows, StepLogits& logits,
                    std::int64_t* logit_row, double seconds);
  void choose_draft(Sequence& sequence, std::int64_t n_rows);
  void take_draft(Sequence& sequence, StepLogits& logits, std::int64_t row);
  bool check_finite(Sequence& sequence, StepLogits& logits, std::int64_t row,
                    std::int64_t position);
  std::string where_not_finite(const Rows& rows);
  SampledToken choose(Sequence& sequence, StepLogits& logits, std::int64_t row,
                      const SampleOptions& options);
  void take_token(Sequence& sequence, StepLogits& logits, std::int64_t row);
  bool ends_by_constraint(Sequence& sequence, TokenConstraint::State state);
  void finish(Sequence& sequence, FinishReason reason);

  operators::Model& model_;
  bool batches_differ_ = false;  // operators' many rows from their few
  operators::Layered* layered_;  // the model, when it can run layer by layer
  backend::Cpu& cpu_;
  EngineOptions options_;
  KvPool pool_;
  tensor::Arena arena_;
  std::vector<std::unique_ptr<operators::GpuStep>> gpus_;
  StepGraphs graphs_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<std::pair<RequestId, Result>> results_;
  Drafts drafts_;
  RequestId next_id_ = 1;
  std::uint64_t clock_ = 0;      // orders sequences by last use
  std::string broken_;           // why the model cannot run any more
  const Rows* taken_ = nullptr;  // whose outputs are taken; null once not_finite_ says where
  std::string not_finite_;       // its first NaN was, for messages
  std::atomic<bool> cancel_{false};
  operators::Trace* trace_ = nullptr;
  operators::ExpertUse expert_use_;
  bool rehearsing_ = false;  // what experts do is not counted
  Choices choices_;
};

}  // namespace kt::engine
