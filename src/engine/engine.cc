#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>
#include <utility>

#include "engine/canary.h"
#include "engine/engine_sequence.h"
#include "operators/phased.h"
#include "operators/placement.h"

namespace kt::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<float> contiguous(tensor::ConstMatrixF rows) {
  std::vector<float> all;
  all.reserve(static_cast<std::size_t>(rows.n_rows * rows.n_cols));
  for (std::int64_t r = 0; r < rows.n_rows; ++r)
    all.insert(all.end(), rows.row(r), rows.row(r) + rows.n_cols);
  return all;
}

}  // namespace

Engine::Engine(operators::Model& model, backend::Cpu& cpu, const EngineOptions& options,
               std::span<const std::unique_ptr<backend::Gpu>> gpus)
    : model_(model),
      layered_(dynamic_cast<operators::Layered*>(&model)),
      cpu_(cpu),
      options_(options),
      pool_(model.state_spec(), options.kv_format,
            options.kv_tokens > 0 ? options.kv_tokens : options.context, cpu, gpus) {
  KT_CHECK(options_.context > 0 && options_.chunk_size > 0);
  operators::walk(model,
                  [this](const operators::Module& m) { batches_differ_ |= m.batches_differ(); });
  for (const auto& gpu : gpus)
    gpus_.push_back(std::make_unique<operators::GpuStep>(*gpu, cpu.pool));
}

// What is cached outlives the engine.
Engine::~Engine() {
  if (options_.page_store == nullptr) return;
  for (const auto& s : sequences_) {
    for (std::int64_t page = 0; page < s->pages.size(); ++page)
      store(*s, page, io::PageStore::IfBusy::kWait);
  }
}

void Engine::check(const Request& request) const {
  const auto n = static_cast<std::int64_t>(request.prompt.size());
  if (!broken_.empty()) {
    fail(ErrorCode::kIo, {}, "the model lost weights while operators changed ({}); load it again",
         broken_);
  }
  if (n == 0) fail(ErrorCode::kUsage, "prompt", "the prompt has no tokens; at least one is needed");
  const std::int64_t limit = request.max_tokens == 0 ? options_.context : options_.context - 1;
  if (n > limit) {
    fail(ErrorCode::kTooLong, "prompt",
         "the prompt has {} tokens, the context holds {}; shorten it or raise --ctx", n,
         options_.context);
  }
  for (const std::int32_t id : request.prompt) {
    if (id >= 0 && id < vocab_size()) continue;
    fail(ErrorCode::kUsage, "prompt", "token id {} is outside the vocabulary of {}", id,
         vocab_size());
  }
  if (request.n_top_logprobs < 0 || request.n_top_logprobs > kMaxTopLogprobs) {
    fail(ErrorCode::kUsage, "top_logprobs", "{} is out of range; 0 to {} is wanted",
         request.n_top_logprobs, kMaxTopLogprobs);
  }
}

Engine::RequestId Engine::submit(Request request) {
  check(request);
  const RequestId id = next_id_++;
  sequences_.push_back(std::make_unique<Sequence>(id, std::move(request), vocab_size()));
  return id;
}

// Appends n of the sequence's uncached tokens to the batch, guessed ones among them.
void Engine::add_rows(Sequence& sequence, std::int64_t first, std::int64_t n, Rows& rows) {
  operators::SequenceRows s;
  s.row_begin = static_cast<std::int64_t>(rows.tokens.size());
  s.n_rows = n;
  s.position = first;
  s.pages = sequence.pages.data();
  rows.sequences.push_back(s);
  rows.owners.push_back(&sequence);
  const bool every_row = sequence.request.on_prompt_logits && sequence.in_prompt();
  rows.every_row |= every_row;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t position = first + i, behind = position - sequence.n_tokens();
    if (every_row || behind >= -1) {
      rows.logit_rows.push_back(static_cast<std::int32_t>(rows.tokens.size()));
      rows.list_scales.push_back(sequence.sampler.list_scale());
      rows.lists |= !every_row && !gpus_.empty();
    }
    rows.tokens.push_back(behind < 0 ? sequence.tokens[static_cast<std::size_t>(position)]
                                     : sequence.draft[static_cast<std::size_t>(behind)]);
    rows.positions.push_back(static_cast<std::int32_t>(position));
  }
}

// Before the model runs; layer by layer that is once for all chunks.
void Engine::prepare(std::int64_t n_rows) {
  if (!options_.before_step) return;
  for (const auto& gpu : gpus_) gpu->recover();  // an error is that of the step before
  options_.before_step(gpus_, n_rows);
}

operators::StepShape Engine::shape_of(const Rows& rows) {
  operators::StepShape shape = operators::shape_of(rows.batch());
  shape.max_keys = std::max(shape.max_keys, rows.max_keys);
  return shape;
}

// With programs that are not recorded yet, the step only records them.
template <class F>
void Engine::with_step(const Rows& rows, F&& run, const StepGraphs::Programs* programs) {
  arena_.reset();
  const operators::Batch batch = rows.batch();
  const operators::StepShape shape = shape_of(rows);
  const bool records = programs != nullptr && !programs->front()->is_recorded();
  operators::ExpertUse* const use = records || rehearsing_ ? nullptr : &expert_use_;
  operators::Step step{batch, cpu_, arena_, pool_.layers(), trace_, use, gpus_};
  if (!gpus_.empty() && shape.max_rows == 1) step.deferral.n_experts = options_.defer_experts;
  for (std::size_t i = 0; i < gpus_.size(); ++i)
    gpus_[i]->begin(batch, shape, programs == nullptr ? nullptr : (*programs)[i].get());
  {
    struct End {  // also when run() throws: graphs go on to their ends
      decltype(gpus_)& gpus;
      ~End() {
        for (const auto& gpu : gpus) gpu->end();
      }
    } const end{gpus_};
    run(step);
  }
  operators::check_errors(gpus_);
}

// The logits of hidden rows, a contiguous [n, d_model].
StepLogits Engine::in_pieces(std::vector<float> hidden) {
  const std::int64_t d = layered_->d_model(), n = std::ssize(hidden) / d;
  return {n, vocab_size(), [this, hidden = std::move(hidden), d](auto first, auto logits) {
            Rows rows;  // a step in which nothing but the head runs
            rows.tokens.resize(static_cast<std::size_t>(logits.n_rows));
            rows.positions.resize(rows.tokens.size());
            with_step(rows, [&](operators::Step& step) {
              layered_->project(step, {hidden.data() + first * d, logits.n_rows, d, d}, logits);
            });
          }};
}

StepLogits Engine::run_rows(const Rows& rows) {
  if (rows.in_pieces() && layered_ != nullptr) {
    std::vector<float> hidden;
    prepare(std::ssize(rows.tokens));
    with_step(rows,
              [&](operators::Step& step) { hidden = contiguous(layered_->run_hidden(step)); });
    return in_pieces(std::move(hidden));
  }
  StepLogits logits;
  const auto run = [&](operators::Step& step) {
    const auto n = static_cast<std::int64_t>(rows.logit_rows.size());
    logits = StepLogits(arena_.matrix(n, vocab_size()));
    if (!step.batch.list_scales.empty()) step.lists = &logits.lists();
    model_.run(step, logits.target());
  };
  const operators::StepShape shape = shape_of(rows);
  prepare(shape.n_rows);
  // Traces tell of what the host does, which is little in a graph.
  const bool may_replay = options_.gpu_graphs && trace_ == nullptr && !gpus_.empty();
  const StepGraphs::Programs* programs = may_replay ? graphs_.find(shape, gpus_) : nullptr;
  if (programs == nullptr) {
    with_step(rows, run);
    graphs_.launched(shape, gpus_);
    return logits;
  }
  if (!programs->front()->is_recorded()) with_step(rows, run, programs);
  with_step(rows, run, programs);
  return logits;
}

// False when a GPU failed on the way, which ends the requests in it; throws when it goes on
// failing.
bool Engine::run_or_end(const Rows& rows, StepLogits* logits) {
  try {
    *logits = run_rows(rows);
    return true;
  } catch (const Error&) {
    graphs_.clear();  // one may be recorded in part
    for (const auto& gpu : gpus_) {
      if (!gpu->recover()) throw;
    }
    for (Sequence* s : rows.owners) {
      for_one(*s, [] { throw; });
      s->pages.truncate(pool_, s->n_cached);
    }
    return false;
  }
}

void Engine::end_all() {
  for (const auto& s : sequences_) {
    if (s->state == Sequence::State::kFinished) continue;
    s->result.error = broken_;
    finish(*s, FinishReason::kError);
  }
}

bool Engine::goes_layer_wise(const Sequence& s) const {
  return options_.layer_wise_threshold > 0 && layered_ != nullptr && options_.make_loader &&
         s.state == Sequence::State::kRunning && s.in_prompt() && !s.request.prompt_by_decode &&
         s.result.n_prompt - s.n_cached > options_.layer_wise_threshold;
}

// The whole rest of a prompt, layer by layer; its pages are there since it started.
void Engine::run_layer_wise(Sequence& s) {
  const auto start = Clock::now();
  const std::int64_t begin = s.n_cached, n = s.result.n_prompt - begin, d = layered_->d_model();
  const tensor::Buffer hidden(static_cast<std::size_t>(2 * n * d) * sizeof(float));
  const tensor::MatrixF x{hidden.as<float>(), n, d, d}, delta{x.row(n), n, d, d};
  std::vector<Rows> chunks;
  for (std::int64_t p = begin; p < s.result.n_prompt;) {
    const std::int64_t count = std::min(to_chunk_end(p), s.result.n_prompt - p);
    add_rows(s, p, count, chunks.emplace_back());
    p += count;
  }
  prepare(n);
  if (!run_layers(s, chunks, x, delta)) return;  // step() ends the request
  double seconds = seconds_since(start);
  std::int64_t row = 0;
  for (const Rows& chunk : chunks) {
    const auto count = static_cast<std::int64_t>(chunk.tokens.size());
    const auto chunk_start = Clock::now();
    StepLogits logits;
    std::vector<float> last;  // hidden rows
    with_step(chunk, [&](operators::Step& step) {
      const tensor::MatrixF in = x.rows(row, count), pending = delta.rows(row, count);
      if (chunk.in_pieces()) {
        last = contiguous(layered_->hidden(step, in, pending));
        return;
      }
      logits = StepLogits(arena_.matrix(std::ssize(chunk.logit_rows), vocab_size()));
      layered_->head(step, in, pending, logits.target());
    });
    if (chunk.in_pieces()) logits = in_pieces(std::move(last));
    seconds += seconds_since(chunk_start);
    row += count;
    std::int64_t logit_row = 0;
    taken_ = &chunk;
    take_outputs(s, count, logits, &logit_row, seconds);
    seconds = 0.0;
    if (s.state == Sequence::State::kFinished) return;
  }
}

// False when it was cancelled between layers, or when weights could not be read (broken_).
bool Engine::run_layers(const Sequence& sequence, const std::vector<Rows>& chunks,
                        tensor::MatrixF x, tensor::MatrixF delta) {
  const auto for_chunks = [&](auto&& run) {
    std::int64_t row = 0;
    for (const Rows& chunk : chunks) {
      const auto count = static_cast<std::int64_t>(chunk.tokens.size());
      with_step(chunk, [&](operators::Step& step) {
        run(step, x.rows(row, count), delta.rows(row, count));
      });
      row += count;
    }
  };
  using operators::Phase;
  operators::Loader loader = options_.make_loader();
  for_chunks([&](operators::Step& step, tensor::MatrixF in, tensor::MatrixF) {
    layered_->embed(step, in);
  });
  for (std::int64_t i = 0; i < layered_->n_layers(); ++i) {
    if (cancel_.load(std::memory_order_relaxed) || sequence.cancelled()) return false;
    std::exception_ptr failed;
    try {
      operators::enter_phase(layered_->layer(i), Phase::kPrefill, loader);
      for_chunks([&](operators::Step& step, tensor::MatrixF in, tensor::MatrixF pending) {
        layered_->run_layer(step, i, in, pending);
      });
    } catch (const std::exception&) {
      failed = std::current_exception();
    }
    try {
      operators::enter_phase(layered_->layer(i), Phase::kGenerate, loader);
    } catch (const std::exception& e) {
      broken_ = e.what();  // this layer has no weights now
      return false;
    }
    if (failed) std::rethrow_exception(failed);  // out of the request alone
  }
  return true;
}

// Starts queued requests in order, each once the pages of its whole prompt are there, so that
// running prompts never wait for each other.
void Engine::start_queued() {
  bool started = true;
  while (started) {  // sequences are removed on the way, so the search starts anew each time
    const auto next = std::find_if(sequences_.begin(), sequences_.end(), [](const auto& s) {
      return s->state == Sequence::State::kQueued;
    });
    if (next == sequences_.end()) return;
    Sequence& sequence = **next;
    for_one(sequence, [&] { started = start(sequence); });
  }
}

// False when it goes on waiting, and those behind it.
bool Engine::start(Sequence& sequence) {
  if (sequence.pages.empty()) reuse_prefix(sequence);
  if (ensure_pages(sequence, sequence.n_tokens())) {
    if (!load_stored(sequence)) return false;
    sequence.state = Sequence::State::kRunning;
    if (sequence.result.started == Clock::time_point{}) sequence.result.started = Clock::now();
    return true;
  }
  if (std::any_of(sequences_.begin(), sequences_.end(),
                  [](const auto& s) { return s->state == Sequence::State::kRunning; })) {
    // Waits for others to end, without pages that they may need.
    sequence.pages.truncate(pool_, 0);
    sequence.n_cached = 0;
    return false;
  }
  finish(sequence, FinishReason::kContextFull);
  return true;
}

// Does what belongs to one request: an exception ends it, and no other.
template <class F>
void Engine::for_one(Sequence& s, F&& f) {
  const auto end = [&](const char* what) {
    if (s.state == Sequence::State::kFinished) return;  // its outcome is there
    s.result.exception = std::current_exception();
    s.result.error = what;
    finish(s, FinishReason::kError);
  };
  try {
    f();
  } catch (const std::exception& e) {
    end(e.what());
  } catch (...) {
    end("an exception that is no std::exception");
  }
}

bool Engine::step() {
  std::erase_if(sequences_, [](const auto& s) {
    return s->state == Sequence::State::kFinished && s->pages.empty();
  });
  const bool all = cancel_.exchange(false, std::memory_order_relaxed);
  for (const auto& s : sequences_) {
    if (s->state == Sequence::State::kFinished || !(all || s->cancelled())) continue;
    finish(*s, FinishReason::kCancelled);
  }
  start_queued();
  for (const auto& s : sequences_) {
    if (!goes_layer_wise(*s)) continue;
    for_one(*s, [&] { run_layer_wise(*s); });
    if (!broken_.empty()) end_all();
    return true;
  }
  bool decodes_only = false;
  const std::vector<Rows> batches = collect_rows(&decodes_only);
  if (batches.empty()) {
    return std::any_of(sequences_.begin(), sequences_.end(),
                       [](const auto& s) { return s->state != Sequence::State::kFinished; });
  }
  for (const Rows& rows : batches) {
    const auto start = Clock::now();
    StepLogits logits;
    if (!run_or_end(rows, &logits)) continue;
    const double seconds = seconds_since(start);
    if (decodes_only) drafts_.record(static_cast<std::int64_t>(rows.tokens.size()), seconds);
    std::int64_t logit_row = 0;
    taken_ = &rows;
    for (std::size_t i = 0; i < rows.owners.size(); ++i) {
      Sequence& s = *rows.owners[i];
      for_one(s, [&] { take_outputs(s, rows.sequences[i].n_rows, logits, &logit_row, seconds); });
    }
  }
  return true;
}

// The rows of a step. Where many rows are computed in another way than few
// (Module::batches_differ), those that come alone as few stay few, so that nobody's tokens depend
// on who else is there.
std::vector<Engine::Rows> Engine::collect_rows(bool* decodes_only) {
  std::vector<Rows> batches;
  const auto batch_for = [&](std::int64_t n) -> Rows& {
    const auto fits = [&](const Rows& rows) {
      return !batches_differ_ ||
             static_cast<std::int64_t>(rows.tokens.size()) + n < backend::kBatchRows;
    };
    if (batches.empty() || !fits(batches.back())) batches.emplace_back();
    return batches.back();
  };
  std::int64_t room = options_.chunk_size;
  std::vector<Sequence*> running;
  for (const auto& s : sequences_) {
    if (s->state != Sequence::State::kRunning) continue;
    s->draft.clear();  // of a step that an exception ended
    running.push_back(s.get());
  }
  // Decodes first: they are one row each and someone is reading.
  std::stable_partition(running.begin(), running.end(),
                        [](const Sequence* s) { return !s->in_prompt(); });
  *decodes_only = !running.empty() && !running.back()->in_prompt();
  std::int64_t n_rows = 0;
  for (std::size_t i = 0; i < running.size(); ++i) {
    Sequence* s = running[i];
    const std::int64_t left = s->n_tokens() - s->n_cached;
    std::int64_t n = std::min(left, s->request.prompt_by_decode ? 1 : to_chunk_end(s->n_cached));
    if (s->in_prompt() && n > room) continue;  // a chunk is not cut: its grid is fixed
    if (options_.prompt_lookup && *decodes_only && left == 1) {
      choose_draft(*s, n_rows + static_cast<std::int64_t>(running.size() - i));
      n += static_cast<std::int64_t>(s->draft.size());
    }
    if (!make_room(running, i, s->n_cached + n)) continue;
    if (s->in_prompt()) room -= n;
    add_rows(*s, s->n_cached, n, batch_for(n));
    n_rows += n;
  }
  return batches;
}

// Rows up to the next multiple of the chunk size.
std::int64_t Engine::to_chunk_end(std::int64_t position) const {
  return options_.chunk_size - position % options_.chunk_size;
}

void Engine::take_outputs(Sequence& s, std::int64_t n_rows, StepLogits& logits,
                          std::int64_t* logit_row, double seconds) {
  const bool prompt = s.in_prompt();
  (prompt ? s.result.prefill_seconds : s.result.decode_seconds) += seconds;
  if (!prompt) ++s.result.n_decoded;
  const auto n_draft = static_cast<std::int64_t>(s.draft.size());
  n_rows -= n_draft;
  s.result.n_drafted += n_draft;
  const bool every_row = prompt && s.request.on_prompt_logits;
  const bool last = s.n_cached + n_rows == s.n_tokens();
  const std::int64_t first = *logit_row;
  const std::int64_t n_logits = every_row ? n_rows : (last ? 1 : 0);
  *logit_row += n_logits + n_draft;  // before anything can throw: others come behind it
  for (std::int64_t i = 0; i < n_logits; ++i) {
    const auto start = Clock::now();
    if (!check_finite(s, logits, first + i, s.n_cached + n_rows - n_logits + i)) return;
    if (!every_row) continue;
    s.result.prefill_seconds += seconds_since(start);  // of what is made only now
    // After waiting again, rows of generated tokens can be behind the prompt's.
    if (s.n_cached + i < s.result.n_prompt)
      s.request.on_prompt_logits(s.n_cached + i, logits.row(first + i));
  }
  s.n_cached += n_rows;
  s.last_used = ++clock_;
  if (prompt && s.request.on_prefill) {
    s.request.on_prefill(std::min(s.n_cached, s.result.n_prompt), s.result.n_prompt);
  }
  if (last) take_token(s, logits, first + n_logits - 1);
  if (n_draft > 0) take_draft(s, logits, first + n_logits);
}

// False when a logit is no number, which ends the request.
bool Engine::check_finite(Sequence& s, StepLogits& logits, std::int64_t row,
                          std::int64_t position) {
  if (logits.finite(row)) return true;
  if (taken_ != nullptr) {
    logits.fetch_all();
    not_finite_ = where_not_finite(*std::exchange(taken_, nullptr));
  }
  s.result.error = fmt::format("the model computed a NaN or infinite logit at position {}{}",
                               position, not_finite_);
  finish(s, FinishReason::kError);
  return false;
}

// ", first in …", of a batch; in memory of its own, as others still want the logits. Empty when a
// sequence of it has ended and given its cache pages back.
std::string Engine::where_not_finite(const Rows& rows) {
  for (std::size_t i = 0; i < rows.owners.size(); ++i) {
    const operators::SequenceRows& s = rows.sequences[i];
    if (rows.owners[i]->pages.size() * tensor::kKvPageLen < s.position + s.n_rows) return {};
  }
  tensor::Arena arena;
  const operators::Batch batch = rows.batch();
  operators::Step step{batch, cpu_, arena, pool_.layers(), nullptr, nullptr, gpus_};
  return layered_ == nullptr ? std::string() : describe_not_finite(model_, *layered_, step);
}

// A guess for a sequence that decodes, in a step of n_rows rows without it; none that others would
// have to give pages for.
void Engine::choose_draft(Sequence& s, std::int64_t n_rows) {
  std::int64_t most = options_.context - s.n_tokens();
  if (s.request.max_tokens >= 0) {
    const auto n_generated = static_cast<std::int64_t>(s.result.tokens.size());
    most = std::min(most, s.request.max_tokens - n_generated - 1);
  }
  s.draft = drafts_.choose(s.tokens, s.acceptance, n_rows, most);
  const std::int64_t end = s.n_tokens() + static_cast<std::int64_t>(s.draft.size());
  if (s.pages.n_wanted(pool_, s.n_cached, end) > pool_.n_free()) s.draft.clear();
}

// Goes on through the guess's rows, the first of which is `row`, as long as the tokens that come
// are the guessed ones.
void Engine::take_draft(Sequence& s, StepLogits& logits, std::int64_t row) {
  const std::vector<std::int32_t> draft = std::exchange(s.draft, {});
  const auto n_draft = static_cast<std::int64_t>(draft.size());
  std::int64_t n = 0;
  while (n < n_draft && s.state == Sequence::State::kRunning &&
         s.tokens.back() == draft[static_cast<std::size_t>(n)]) {
    if (!check_finite(s, logits, row + n, s.n_cached)) return;
    ++s.n_cached;
    ++s.result.n_decoded;
    ++s.result.n_accepted;
    take_token(s, logits, row + n++);
  }
  s.acceptance.record(n_draft, n);
}

// From the list, or from the row where that does not say it all.
SampledToken Engine::choose(Sequence& s, StepLogits& logits, std::int64_t row,
                            const SampleOptions& options) {
  std::optional<SampledToken> token;
  if (const auto list = logits.list(row)) token = s.sampler.sample(*list, s.tokens, options);
  ++choices_.n;
  choices_.n_from_lists += token ? 1 : 0;
  return token ? *std::move(token) : s.sampler.sample(logits.row(row), s.tokens, options);
}

void Engine::take_token(Sequence& s, StepLogits& logits, std::int64_t row) {
  const auto n_generated = static_cast<std::int64_t>(s.result.tokens.size());
  if (s.request.max_tokens >= 0 && n_generated >= s.request.max_tokens) {
    finish(s, FinishReason::kMaxTokens);
    return;
  }
  TokenConstraint* constraint = s.request.constraint.get();
  SampleOptions options;
  options.n_top = s.request.n_top_logprobs;
  options.logprob = s.request.logprobs;
  if (constraint != nullptr) {
    const TokenConstraint::State state = constraint->fill(s.mask);
    if (ends_by_constraint(s, state)) return;
    if (state == TokenConstraint::State::kBound) options.mask = s.mask;
  }
  const SampledToken token = choose(s, logits, row, options);
  if (token.id < 0) {
    s.result.error = options.mask.empty() ? "no token has a finite logit"
                                          : "no token that may come has a finite logit";
    finish(s, FinishReason::kError);
    return;
  }
  const auto& stops = s.request.stop_tokens;
  if (!s.request.ignore_stop_tokens &&
      std::find(stops.begin(), stops.end(), token.id) != stops.end()) {
    s.result.stop_token = token;
    finish(s, FinishReason::kStopToken);
    return;
  }
  auto state = TokenConstraint::State::kFree;
  if (constraint != nullptr) state = constraint->accept(token.id);
  s.result.tokens.push_back(token.id);
  s.tokens.push_back(token.id);
  if (s.request.on_token && !s.request.on_token(token)) {
    finish(s, FinishReason::kCallback);
  } else if (ends_by_constraint(s, state)) {
    return;
  } else if (s.request.max_tokens >= 0 && n_generated + 1 >= s.request.max_tokens) {
    finish(s, FinishReason::kMaxTokens);
  } else if (s.n_tokens() >= options_.context) {
    finish(s, FinishReason::kContextFull);
  }
}

bool Engine::ends_by_constraint(Sequence& s, TokenConstraint::State state) {
  if (state == TokenConstraint::State::kComplete) {
    finish(s, FinishReason::kStopToken);
  } else if (state == TokenConstraint::State::kFailed) {
    s.result.error = s.request.constraint->error();
    finish(s, FinishReason::kError);
  } else {
    return false;
  }
  return true;
}

void Engine::finish(Sequence& s, FinishReason reason) {
  const bool spoiled = reason == FinishReason::kError && s.result.exception == nullptr;
  s.result.reason = reason;
  results_.emplace_back(s.id, std::move(s.result));
  s.state = Sequence::State::kFinished;
  s.request = {};
  if (!spoiled) return;
  s.n_cached = 0;  // what is cached may hold the NaN
  s.pages.truncate(pool_, 0);
  if (options_.page_store == nullptr) return;
  options_.page_store->flush();
  for (const Sha256& key : s.page_keys) options_.page_store->forget(key);
}

std::unique_ptr<Result> Engine::take_result(RequestId id) {
  const auto it =
      std::find_if(results_.begin(), results_.end(), [&](const auto& r) { return r.first == id; });
  if (it == results_.end()) return nullptr;
  auto result = std::make_unique<Result>(std::move(it->second));
  results_.erase(it);
  return result;
}

std::vector<float> Engine::embed(std::vector<std::int32_t> tokens, Pooling pooling) {
  if (layered_ == nullptr) fail(ErrorCode::kUnsupported, {}, "this model has no hidden states");
  Request request;
  request.prompt = std::move(tokens);
  request.max_tokens = 0;
  check(request);
  Sequence sequence(0, std::move(request), vocab_size());
  const std::int64_t n = sequence.n_tokens();
  std::vector<float> sum(static_cast<std::size_t>(layered_->d_model()));
  struct GiveBack {
    KvPool& pool;
    PageTable& pages;
    ~GiveBack() { pages.truncate(pool, 0); }
  } const give_back{pool_, sequence.pages};
  if (!ensure_pages(sequence, n)) {
    fail(ErrorCode::kNoMemory, {}, "the cache has no room for {} tokens now", n);
  }
  while (sequence.n_cached < n) {
    embed_chunk(sequence, std::min(to_chunk_end(sequence.n_cached), n - sequence.n_cached), pooling,
                sum);
  }
  if (pooling == Pooling::kMean) {
    for (float& v : sum) v /= static_cast<float>(n);
  }
  return sum;
}

// The last row's logits of a step of n rows, with memory for the longest context where they are
// many.
std::vector<float> Engine::try_rows(Sequence& sequence, std::int64_t n) {
  Rows rows;
  add_rows(sequence, sequence.n_tokens() - n, n, rows);
  if (n > 1) rows.max_keys = options_.context;
  StepLogits logits = run_rows(rows);
  const std::span<const float> row = logits.row(0);
  if (!finite(row)) {
    fail(ErrorCode::kInternal, {}, "the model computed a NaN or infinite logit{}",
         where_not_finite(rows));
  }
  if (!logits.list_agrees(0)) {
    fail(ErrorCode::kInternal, {}, "a GPU lists another logit as the largest than its row has");
  }
  return {row.begin(), row.end()};
}

void Engine::rehearse() {
  Request request;
  request.prompt.resize(static_cast<std::size_t>(options_.chunk_size));
  request.max_tokens = 0;
  Sequence sequence(0, std::move(request), vocab_size());
  KT_CHECK(ensure_pages(sequence, options_.chunk_size));
  rehearsing_ = true;
  try_rows(sequence, options_.chunk_size);
  if (layered_ != nullptr) {  // the head of as many rows as it is asked for at once
    const std::int64_t n = StepLogits::kMostInPiece * layered_->d_model();
    in_pieces(std::vector<float>(static_cast<std::size_t>(n))).row(0);
  }
  const std::vector<float> launched = try_rows(sequence, 1);
  if (options_.gpu_graphs && try_rows(sequence, 1) != launched) {
    fail(ErrorCode::kInternal, {},
         "a replayed step gives other logits than the launched one; --gpu-graphs off replays none");
  }
  if (options_.layer_wise_threshold > 0 && layered_ != nullptr) rehearse_layer_wise(sequence);
  sequence.pages.truncate(pool_, 0);
  rehearsing_ = false;
}

// A layer of every kind, for what prefill operators take of temporaries.
void Engine::rehearse_layer_wise(Sequence& sequence) {
  Rows rows;
  add_rows(sequence, 0, options_.chunk_size, rows);
  rows.max_keys = options_.context;
  operators::Loader loader = options_.make_loader();
  std::set<std::string> kinds;
  for (std::int64_t i = 0; i < layered_->n_layers(); ++i) {
    operators::Module& layer = layered_->layer(i);
    if (!kinds.insert(operators::prefill_kind(layer, loader.source(), cpu_.act)).second) continue;
    operators::enter_phase(layer, operators::Phase::kPrefill, loader);
    with_step(rows, [&](operators::Step& step) {
      const std::int64_t n = options_.chunk_size, d = layered_->d_model();
      const tensor::MatrixF x = arena_.matrix(n, d), delta = arena_.matrix(n, d);
      layered_->embed(step, x);
      std::fill_n(delta.data, n * d, 0.0f);
      layered_->run_layer(step, i, x, delta);
    });
    operators::enter_phase(layer, operators::Phase::kGenerate, loader);
  }
}

// Runs the next n tokens, and adds what pooling wants of them.
void Engine::embed_chunk(Sequence& sequence, std::int64_t n, Pooling pooling,
                         std::vector<float>& sum) {
  Rows rows;
  add_rows(sequence, sequence.n_cached, n, rows);
  rows.lists = false;
  if (pooling == Pooling::kMean) {
    rows.logit_rows.resize(static_cast<std::size_t>(n));
    std::iota(rows.logit_rows.begin(), rows.logit_rows.end(), 0);
  }
  prepare(n);
  with_step(rows, [&](operators::Step& step) {
    const std::int64_t d = layered_->d_model();
    const tensor::MatrixF x = arena_.matrix(n, d), delta = arena_.matrix(n, d);
    layered_->embed(step, x);
    for (std::int64_t i = 0; i < layered_->n_layers(); ++i) layered_->run_layer(step, i, x, delta);
    if (rows.logit_rows.empty()) return;
    const tensor::ConstMatrixF hidden = layered_->hidden(step, x, delta);
    for (std::int64_t r = 0; r < hidden.n_rows; ++r) {
      for (std::int64_t c = 0; c < d; ++c) sum[static_cast<std::size_t>(c)] += hidden.row(r)[c];
    }
  });
  if (!finite(sum)) {
    fail(ErrorCode::kInternal, {}, "the model computed a NaN or infinite value{}",
         where_not_finite(rows));
  }
  sequence.n_cached += n;
}

Result Engine::generate(Request request) {
  const RequestId id = submit(std::move(request));
  std::unique_ptr<Result> result;
  try {
    while ((result = take_result(id)) == nullptr) step();
  } catch (...) {  // nobody waits for this request any more
    for (const auto& s : sequences_) {
      if (s->id == id && s->state != Sequence::State::kFinished)
        finish(*s, FinishReason::kCancelled);
    }
    take_result(id);
    throw;
  }
  cancel_.store(false,
                std::memory_order_relaxed);  // one that came too late was meant for this request
  if (result->exception) std::rethrow_exception(result->exception);
  if (result->reason == FinishReason::kError) fail(ErrorCode::kInternal, {}, "{}", result->error);
  return std::move(*result);
}

}  // namespace kt::engine
