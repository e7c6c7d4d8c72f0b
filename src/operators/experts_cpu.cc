// Routed experts on the CPU in two kinds of tasks per layer: KExpertsCPU (weights as stored, or
// as its `backend` requantises them), KExpertsTorch (floats), KExpertsMarlin (groups of 4 or 8
// bits).
//
//   rows are grouped by expert (counting sort) →
//   first, tasks = (expert, chunk of d_ff): h = silu(x·gateᵀ) * (x·upᵀ), quantised in place for
//   down → then, tasks = chunk of d_model: for each expert in ascending id: result[row] +=
//   weight · (h·downᵀ)
//
// Of few rows both kinds come in halves, for the first experts and for the others (in_turn.h). Each
// output value is summed in expert order, by one thread after another: no reduction across threads,
// and a row's result does not depend on the rest of the batch. On several NUMA nodes each has a
// part of d_ff (gate, up) and of d_model (down) of every expert, and tasks for that part.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "operators/expert_blocking.h"
#include "operators/expert_cache.h"
#include "operators/expert_measure.h"
#include "operators/in_turn.h"
#include "operators/makers.h"
#include "operators/routed_experts.h"
#include "operators/row_ops.h"

namespace kt::operators {
namespace {

namespace dot = kernels::dot;
using backend::ActMatrix;
using backend::PackedMatrix;

// Every node's part of n output columns, cut into chunks of at most `width`.
class Chunks {
 public:
  Chunks(const ThreadPool& pool, std::int64_t n, std::int64_t width)
      : pool_(pool), n_(n), width_(width) {}
  std::int64_t count(int node) const noexcept {
    return (pool_.part(node, n_, backend::kRowGrain).size() + width_ - 1) / width_;
  }
  struct Chunk {
    std::int64_t begin, size;
  };
  Chunk at(int node, std::int64_t index) const noexcept {
    const ThreadPool::Range all = pool_.part(node, n_, backend::kRowGrain);
    const std::int64_t begin = all.begin + index * width_;
    return {begin, std::min(width_, all.end - begin)};
  }

 private:
  const ThreadPool& pool_;
  std::int64_t n_, width_;
};

struct Expert {
  PackedMatrix gate, up, down;
};

// Rows of the batch in expert order. An expert's first slot is a multiple of the alignment; slots
// between hold row -1.
struct Groups {
  std::int32_t* active = nullptr;  // [n_active] ids of experts with rows
  std::int64_t n_active = 0;
  std::int32_t* begin = nullptr;  // [n_experts] first slot of each expert
  std::int32_t* end = nullptr;    // [n_experts]
  std::int32_t* row = nullptr;    // [n_slots] batch row
  float* weight = nullptr;        // [n_slots]
  std::int64_t n_slots = 0;
};

class CpuExperts : public RoutedExperts {
 public:
  CpuExperts(const Builder& at, const ExpertsSpec& spec, const Recode& recode)
      : RoutedExperts(at, spec, recode),
        limit_(static_cast<float>(spec.config.moe.swiglu_limit)),
        gpu_(limit_ > 0.0f ? std::nullopt : at.experts_gpu()),
        mode_(at.placement().stream_experts),
        n_on_gpu_(slots_of(at)),
        uses_(static_cast<std::size_t>(n_experts_)) {}
  ~CpuExperts() override { leave_gpu(); }

  Kept kept(const io::WeightSource& source, backend::ActPolicy act) const override {
    Kept kept = RoutedExperts::kept(source, act);
    for (KeptMatrix& m : kept.matrices)
      m.piece_rows = m.n == d_ff_ ? ExpertBlocking{}.ff_chunk : ExpertBlocking{}.model_chunk;
    return kept;
  }

  void check(const io::WeightSource& source) const override {
    RoutedExperts::check(source);
    if (!gpu_ || (mode_ != StreamExperts::kOn && n_on_gpu_ == 0)) return;
    for (std::int64_t e = 0; e < n_experts_; ++e) {
      std::array<tensor::Format, 3> formats;
      for (std::size_t p = 0; p < 3; ++p) {
        const WeightSpec spec = weight(e, static_cast<int>(p));
        formats[p] = recode_.target(require_tensor(source, spec).format);
      }
      if (!can_stream(formats[0], formats[1], formats[2])) refuse_streaming(formats[0], formats[2]);
    }
  }

  void load(Loader& loader) override {
    std::vector<PackedMatrix> matrices = loader.matrices(weights(), recode_, storage_);
    experts_.resize(static_cast<std::size_t>(n_experts_));
    for (std::int64_t e = 0; e < n_experts_; ++e) {
      Expert& expert = experts_[static_cast<std::size_t>(e)];
      const auto first_of_expert = static_cast<std::size_t>(3 * e);
      expert.gate = std::move(matrices[first_of_expert]);
      expert.up = std::move(matrices[first_of_expert + 1]);
      expert.down = std::move(matrices[first_of_expert + 2]);
      const Expert& first = experts_.front();
      if (&expert.gate.kernel() != &first.gate.kernel() ||
          &expert.up.kernel() != &first.up.kernel() ||
          &expert.down.kernel() != &first.down.kernel()) {
        fail(ErrorCode::kUnsupported, path(),
             "expert {} is stored in another format than expert 0; all "
             "experts of a layer must share one",
             e);
      }
    }
    if (gpu_) stream_ = loader.expert_stream(*gpu_);
    if (stream_ != nullptr) join_gpu(loader.cpu().pool);
    if (layer_ == nullptr || n_on_gpu_ == 0) return;
    cache_ = loader.expert_cache(*gpu_);
    if (cache_ != nullptr) cached_ = cache_->add(layer_, n_on_gpu_);
  }

  void unload() override {
    leave_gpu();
    std::vector<Expert>().swap(experts_);
    storage_ = {};
  }

  void collect(Step& step, Ticket& ticket, Activation& accumulate_into) noexcept override {
    if (ticket.streamed) add_rows(step, *ticket.streamed, accumulate_into);
    if (GpuStep* gpu = ticket.sending.gpu) {
      gpu->add(ticket.sending, accumulate_into.update_on(*gpu), accumulate_into.gpu_type());
    } else if (ticket.result) {
      add_rows(step, *ticket.result, accumulate_into);
    }
  }
  std::optional<int> streams_to() const override {
    return mode_ == StreamExperts::kOff && n_on_gpu_ == 0 ? std::nullopt : gpu_;
  }
  std::int64_t n_on_gpu() const override { return gpu_ ? n_on_gpu_ : 0; }
  bool is_on_gpu(std::int32_t expert) const override {
    return cached_ != nullptr && ExpertCache::holds(*cached_, expert);
  }

  std::span<const std::uint64_t> uses() const override { return uses_; }
  bool on_cpu() const override { return true; }
  std::uint64_t weight_bytes() const override {
    std::uint64_t n = 0;
    for (const Expert& e : experts_) n += e.gate.bytes() + e.up.bytes() + e.down.bytes();
    return n;
  }
  std::vector<std::span<const std::byte>> packed_memory() const override {
    return storage_.spans();
  }
  std::string weight_format() const override {
    if (experts_.empty()) return {};
    return format_text(experts_.front().gate.format(), experts_.front().down.format());
  }
  std::string kernel_name() const override {
    return experts_.empty() ? std::string() : experts_.front().gate.kernel().name;
  }
  bool batches_differ() const override {
    if (experts_.empty()) return false;
    const Expert& e = experts_.front();
    return streams() ||
           e.gate.batch_rows_each() + e.up.batch_rows_each() + e.down.batch_rows_each() > 0;
  }

 private:
  Ticket do_submit(Step& step, Activation& x, Routing& routing) noexcept override {
    const bool divides = streams() && x.n_rows() >= backend::kBatchRows;
    routing.fetch(step, x.n_rows(), divides ? nullptr : &x);  // many rows only if they are wanted
    if (step.expert_use != nullptr) count(routing, x.n_rows());
    Ticket ticket;
    const Routing rest =
        cached_ != nullptr && !routing.deferred ? use_cache(step, x, routing, ticket) : routing;
    if (divides) {
      divide(step, x, rest, ticket);
    } else {
      // Nobody else adds to the rows or reads them on the host.
      if (x.gpu() != nullptr && !routing.deferred && !step.deferral.pending)
        ticket.sending = x.gpu()->send(x.n_rows(), d_model_);
      ticket.result =
          compute(step, x, rest, x.n_rows() * routing.n_active / n_experts_, ticket.sending.values);
    }
    return ticket;
  }

  bool streams() const { return stream_ != nullptr && stream_->streams(); }

  void count(const Routing& routing, std::int64_t n_rows) noexcept {
    for (std::int64_t i = 0; i < n_rows * routing.n_active; ++i) {
      if (routing.ids[i] >= 0) ++uses_[static_cast<std::size_t>(routing.ids[i])];
    }
    if (cached_ != nullptr) ExpertCache::count(*cached_, routing, n_rows);
  }

  // The GPU gets the experts that it has; the others are left.
  Routing use_cache(Step& step, Activation& x, const Routing& routing, Ticket& ticket) noexcept {
    const std::int64_t n = x.n_rows() * routing.n_active;
    Routing rest = routing;
    rest.ids = step.arena.allocate<std::int32_t>(n);
    std::int64_t n_cached = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const bool cached = ExpertCache::holds(*cached_, routing.ids[i]);
      rest.ids[i] = cached ? -1 : routing.ids[i];
      n_cached += cached ? 1 : 0;
    }
    if (step.expert_use != nullptr)
      step.expert_use->n_cached += static_cast<std::uint64_t>(n_cached);
    // Steps of few rows are recorded, and must all do the same.
    if (n_cached == 0 && x.n_rows() >= backend::kBatchRows) return rest;
    x.f32();  // later it would wait for what the GPU is given now
    ticket.streamed.emplace(step, x.n_rows(), d_model_);
    cache_->run(step, *cached_, x, routing, *ticket.streamed);
    return rest;
  }

  // The GPU gets its experts first: it works while the CPU does the others.
  void divide(Step& step, Activation& x, const Routing& routing, Ticket& ticket) noexcept {
    if (stream_->mode() == StreamExperts::kAuto && !stream_->rates().known()) {
      stream_->set_rates(
          measure_experts(step, *stream_, layer_, x, routing.n_active,
                          [&](Activation& some, const Routing& to, std::int64_t n_each) {
                            compute(step, some, to, n_each);
                          }));
    }
    const ExpertStream::Division division = stream_->divide(layer_, routing, x.n_rows());
    if (division.n_here > 0) x.f32();  // later it would wait for what the GPU is given now
    if (!division.streamed.empty()) {
      if (!ticket.streamed) {
        ticket.streamed.emplace(step, x.n_rows(), d_model_);
        clear_rows(step, *ticket.streamed, *gpu_);
      }
      stream_->run(step, layer_, division.streamed, x, routing, *ticket.streamed);
      if (step.expert_use != nullptr) {
        step.expert_use->n_rows += static_cast<std::uint64_t>(division.n_streamed_rows);
        step.expert_use->n_reads += division.streamed.size();
      }
    }
    if (division.n_here > 0) {
      Routing here = routing;
      here.ids = step.arena.allocate<std::int32_t>(x.n_rows() * routing.n_active);
      for (std::int64_t i = 0; i < x.n_rows() * routing.n_active; ++i)
        here.ids[i] = division.is_streamed(routing.ids[i]) ? -1 : routing.ids[i];
      ticket.result = compute(step, x, here, division.n_here_rows / division.n_here);
    }
  }

  [[noreturn]] void refuse_streaming(tensor::Format gate, tensor::Format down) const {
    fail(ErrorCode::kUnsupported, path(),
         "experts in {} cannot go to a GPU from here; use {}, or another file type",
         format_text(gate, down),
         mode_ == StreamExperts::kOn ? "--stream-experts auto" : "--expert-cache off");
  }

  // Registers the packed experts, which lie as Loader::matrices placed them.
  void join_gpu(const ThreadPool& pool) {
    const Expert& first = experts_.front();
    const std::array<const PackedMatrix*, 3> matrices = {&first.gate, &first.up, &first.down};
    const bool possible = can_stream(first.gate.format(), first.up.format(), first.down.format()) &&
                          std::all_of(matrices.begin(), matrices.end(), [](const PackedMatrix* m) {
                            return m->kernel().pack == dot::Pack::kN16;
                          });
    if (!possible) {
      if (mode_ == StreamExperts::kOn || n_on_gpu_ > 0)
        refuse_streaming(first.gate.format(), first.down.format());
      stream_ = nullptr;
      return;
    }
    ExpertSource source;
    source.path = path();
    source.n_experts = n_experts_;
    for (std::size_t p = 0; p < 3; ++p)
      source.matrices[p] = {matrices[p]->format(), matrices[p]->n(), matrices[p]->k()};
    for (int node = 0; node < pool.n_nodes(); ++node) {
      ExpertSource::Part part;
      part.data = storage_.part(static_cast<std::size_t>(node));
      for (std::size_t p = 0; p < 3; ++p) {
        const ThreadPool::Range rows = pool.part(node, matrices[p]->n(), backend::kRowGrain);
        part.rows[p] = {part.expert_bytes, rows.begin, rows.size()};
        part.expert_bytes += matrices[p]->part_bytes(rows);
      }
      source.parts.push_back(part);
    }
    source.memory = storage_.spans();
    layer_ = stream_->add(std::move(source));
  }

  void leave_gpu() {
    if (cached_ != nullptr) cache_->remove(cached_);
    cache_ = nullptr;
    cached_ = nullptr;
    if (stream_ != nullptr && layer_ != nullptr) stream_->remove(layer_);
    stream_ = nullptr;
    layer_ = nullptr;
  }

  // Rows are also put into `values` if its `to` is set.
  Activation compute(Step& step, Activation& x, const Routing& routing, std::int64_t n_each,
                     const GpuProgram::Values& values = {}) noexcept {
    const Expert& first = experts_.front();
    const Forms forms = {first.gate.form(x.n_rows(), n_each), first.up.form(x.n_rows(), n_each),
                         first.down.form(x.n_rows(), n_each)};
    const bool tiles =
        dot::is_tiles(forms.gate) || dot::is_tiles(forms.up) || dot::is_tiles(forms.down);
    ExpertBlocking blocking;
    if (tiles) {
      blocking = tile_blocking(d_model_, step.cpu.pool.size());
    } else if (x.n_rows() < backend::kBatchRows) {
      blocking = blocking_of_few(step.cpu);
    }
    if (tiles && !dot::is_tiles(forms.down)) blocking.model_chunk = ExpertBlocking{}.model_chunk;
    const Groups groups = group_rows(step, x.n_rows(), routing, blocking.align);
    Activation result(step, x.n_rows(), d_model_);
    Work work{blocking, groups, {}, {}, {}, result.write(), values};
    const auto read_x = [&] {
      work.gate_in = gather(step, x, forms.gate, groups);
      work.up_in = forms.up == forms.gate ? work.gate_in : gather(step, x, forms.up, groups);
    };
    const bool is_one_row = x.n_rows() == 1;  // more are read by all threads
    if (!is_one_row || blocking.beside == 0) read_x();
    // Tasks make pieces of rows: what is rounded by rows waits for the last.
    const bool by_rows = forms.down == dot::Act::kI8;
    work.hidden = ActMatrix(step.cpu, step.arena, by_rows ? dot::Act::kF32 : forms.down,
                            groups.n_slots, d_ff_);
    const std::int64_t scratch_size = std::max(blocking.gate_up_floats(), blocking.down_floats());
    float* scratch = step.arena.allocate<float>(step.cpu.pool.size() * scratch_size);
    const Chunks ff(step.cpu.pool, d_ff_, blocking.ff_chunk);
    const Chunks model(step.cpu.pool, d_model_, blocking.model_chunk);
    // Of gate and up, then of down: tasks of the first experts, then of the others.
    const std::int64_t n_first =
        blocking.beside > 0 ? first_experts(groups.n_active) : groups.n_active;
    const ExpertRange ranges[] = {{0, n_first}, {n_first, groups.n_active - n_first}};
    const auto count = [&](std::size_t stage, int node) -> std::int64_t {
      const ExpertRange range = ranges[stage % 2];
      if (stage < 2) return range.n * ff.count(node);
      return range.n > 0 || stage == 2 ? model.count(node) : 0;  // that one clears the sums
    };
    const auto task = [&](std::size_t stage, int node, std::int64_t index, int worker) {
      float* mine = scratch + worker * scratch_size;
      const Task what = {stage < 2 ? ff : model, node, index, count(stage, node),
                         ranges[stage % 2]};
      stage < 2 ? gate_up_task(step, work, what, mine) : down_task(step, work, what, mine);
    };
    if (blocking.beside > 0) {
      KT_CHECK(!by_rows);  // tiles
      work.first_done = make_flags(step, d_model_ / blocking.model_chunk + 1);
      const auto prepare = [&] {
        if (is_one_row) read_x();
      };
      run_in_turn<4>(step, prepare, count, task);
    } else {
      const auto run = [&](std::size_t stage) {
        step.cpu.pool.run_nodes(
            [&](int node) { return count(stage, node); },
            [&](int node, std::int64_t index, int worker) { task(stage, node, index, worker); });
      };
      run(0);
      if (by_rows) work.hidden = round_rows(step, work.hidden, groups);
      run(2);
    }
    return result;
  }

  // Half of them, in whole fours, as many as are multiplied by down at once.
  static constexpr std::int64_t first_experts(std::int64_t n) {
    constexpr std::int64_t kAtOnce = dot::kSideBySide;
    return std::min(n, (n + 2 * kAtOnce - 1) / (2 * kAtOnce) * kAtOnce);
  }

  static std::atomic<bool>* make_flags(Step& step, std::int64_t n) noexcept {
    auto* flags = step.arena.allocate<std::atomic<bool>>(n);
    for (std::int64_t i = 0; i < n; ++i) new (&flags[i]) std::atomic<bool>(false);
    return flags;
  }

  ExpertBlocking blocking_of_few(const backend::Cpu& cpu) const {
    const Expert& first = experts_.front();
    const std::int64_t beside =
        std::min(backend::beside_rows(cpu, first.gate), backend::beside_rows(cpu, first.down));
    return beside > 0 ? few_blocking(beside) : ExpertBlocking{};
  }

  // The forms of activations that the three projections read.
  struct Forms {
    dot::Act gate, up, down;
  };

  Groups group_rows(Step& step, std::int64_t n_rows, const Routing& routing,
                    std::int64_t align) const noexcept {
    Groups g;
    const std::int64_t n_routed = n_rows * routing.n_active;
    g.begin = step.arena.allocate<std::int32_t>(n_experts_);
    g.end = step.arena.allocate<std::int32_t>(n_experts_);
    g.active = step.arena.allocate<std::int32_t>(n_experts_);
    std::fill(g.end, g.end + n_experts_, 0);
    for (std::int64_t i = 0; i < n_routed; ++i) {
      if (routing.ids[i] >= 0) ++g.end[routing.ids[i]];
    }
    std::int64_t n_rows_here = 0;
    for (std::int64_t e = 0; e < n_experts_; ++e) {
      const std::int64_t count = g.end[e];
      n_rows_here += count;
      if (count != 0) g.active[g.n_active++] = static_cast<std::int32_t>(e);
      g.begin[e] = g.end[e] = static_cast<std::int32_t>(g.n_slots);
      g.n_slots += (count + align - 1) / align * align;
    }
    g.row = step.arena.allocate<std::int32_t>(g.n_slots);
    g.weight = step.arena.allocate<float>(g.n_slots);
    std::fill(g.row, g.row + g.n_slots, -1);
    for (std::int64_t i = 0; i < n_routed; ++i) {
      if (routing.ids[i] < 0) continue;
      const std::int32_t slot = g.end[routing.ids[i]]++;
      g.row[slot] = static_cast<std::int32_t>(i / routing.n_active);
      g.weight[slot] = routing.weights[i];
    }
    if (step.expert_use != nullptr) {
      step.expert_use->n_rows += static_cast<std::uint64_t>(n_rows_here);
      step.expert_use->n_reads += static_cast<std::uint64_t>(g.n_active);
    }
    return g;
  }

  // Input rows in grouped order; a single batch row serves all its groups as it is.
  struct Input {
    dot::ActRows rows;
    std::int64_t k = 0;
    bool shared = false;
    dot::ActRows view(std::int64_t row) const {
      return shared ? rows : backend::offset_rows(rows, row, k);
    }
  };
  Input gather(Step& step, Activation& x, dot::Act form, const Groups& groups) const noexcept {
    const dot::ActRows in = x.rows_in(form, step);
    if (x.n_rows() == 1) return {in, d_model_, true};
    const ActMatrix rows(step.cpu, step.arena, form, groups.n_slots, d_model_);
    step.cpu.pool.run(groups.n_slots, [&](std::int64_t i, int) {
      if (groups.row[i] >= 0) rows.copy(i, in, groups.row[i]);
    });
    return {rows.view(), d_model_};
  }

  // What all tasks of a call share.
  struct Work {
    const ExpertBlocking& blocking;
    const Groups& groups;
    Input gate_in, up_in;
    ActMatrix hidden;
    MatrixF result;
    GpuProgram::Values values;
    // Where down has tasks for the first experts and tasks for the others: whether the former have
    // been added, for each model_chunk of columns.
    std::atomic<bool>* first_done = nullptr;
  };
  // Active experts [first, first + n).
  struct ExpertRange {
    std::int64_t first, n;
    bool is_first() const { return first == 0; }
    std::int64_t end() const { return first + n; }
  };
  // One of `count` tasks of a node for some experts, which have columns cut into `chunks`.
  struct Task {
    const Chunks& chunks;
    int node;
    std::int64_t index, count;
    ExpertRange experts;
  };

  // h of one expert, columns of d_ff.
  void gate_up_task(Step& step, const Work& work, const Task& task, float* gate) const noexcept {
    const Groups& groups = work.groups;
    const std::int64_t width = work.blocking.ff_chunk, panel = work.blocking.panel;
    const std::int64_t per_expert = task.chunks.count(task.node);
    const std::int64_t e = groups.active[task.experts.first + task.index / per_expert];
    const auto [col, n] = task.chunks.at(task.node, task.index % per_expert);
    const Expert& expert = experts_[static_cast<std::size_t>(e)];
    float* up = gate + panel * width;
    const std::byte *next_gate = nullptr, *next_up = nullptr;
    if (task.index + 1 < task.count) {
      const Expert& then = expert_of(groups, task.experts.first + (task.index + 1) / per_expert);
      const std::int64_t at = task.chunks.at(task.node, (task.index + 1) % per_expert).begin;
      next_gate = then.gate.rows_at(at);
      next_up = then.up.rows_at(at);
    }
    const std::int64_t part = backend::equal_part(groups.end[e] - groups.begin[e], panel);
    for (std::int64_t r = groups.begin[e]; r < groups.end[e]; r += part) {
      const std::int64_t m = std::min<std::int64_t>(part, groups.end[e] - r);
      const backend::BesideProduct products[] = {
          {&expert.gate, work.gate_in.view(r), gate, next_gate},
          {&expert.up, work.up_in.view(r), up, next_up}};
      backend::dot_beside(products, m, col, n, width);
      for (std::int64_t i = 0; i < m; ++i) {
        float* h = gate + i * width;
        if (limit_ > 0.0f) clamp(h, up + i * width, n);
        step.cpu.elementwise->silu_mul(h, up + i * width, n, h);
        work.hidden.write(step.cpu, r + i, col, n, h);
      }
    }
  }

  ActMatrix round_rows(Step& step, const ActMatrix& floats, const Groups& groups) const noexcept {
    const ActMatrix rows(step.cpu, step.arena, dot::Act::kI8, groups.n_slots, d_ff_);
    step.cpu.pool.run(groups.n_slots, [&](std::int64_t i, int) {
      if (groups.row[i] >= 0) rows.write(step.cpu, i, 0, d_ff_, floats.view(i).f32);
    });
    return rows;
  }

  // Columns of d_model of all rows: the sums over the task's experts, in ascending order, added to
  // those over the experts before them.
  void down_task(Step& step, const Work& work, const Task& task, float* out) const noexcept {
    const Groups& groups = work.groups;
    const MatrixF& result = work.result;
    const std::int64_t width = work.blocking.model_chunk;
    const auto [col, n] = task.chunks.at(task.node, task.index);
    std::atomic<bool>* const first_done =
        work.first_done == nullptr ? nullptr : work.first_done + col / width;
    if (task.experts.is_first()) {
      for (std::int64_t r = 0; r < result.n_rows; ++r)
        std::fill(result.row(r) + col, result.row(r) + col + n, 0.0f);
    }
    const auto add = [&, col = col, n = n](std::int64_t first, std::int64_t m, const float* from) {
      if (!task.experts.is_first())
        spin_until([&] { return first_done->load(std::memory_order_acquire); });
      for (std::int64_t i = 0; i < m; ++i) {
        step.cpu.elementwise->scale_add(from + i * width, groups.weight[first + i], n,
                                        result.row(groups.row[first + i]) + col);
      }
    };
    for (std::int64_t a = task.experts.first; a < task.experts.end();) {
      const std::int64_t e = groups.active[a], all = groups.end[e] - groups.begin[e];
      if (all <= work.blocking.beside) {
        const std::int64_t n_beside = alike(groups, {a, task.experts.end() - a});
        down_beside(work, task, {a, n_beside}, all, out);
        for (std::int64_t i = 0; i < n_beside; ++i)
          add(groups.begin[groups.active[a + i]], all, out + i * all * width);
        a += n_beside;
        continue;
      }
      const std::int64_t part = backend::equal_part(all, work.blocking.panel);
      for (std::int64_t r = groups.begin[e]; r < groups.end[e]; r += part) {
        const std::int64_t m = std::min<std::int64_t>(part, groups.end[e] - r);
        expert_of(groups, a).down.dot(work.hidden.view(r), m, col, n, out, width);
        add(r, m, out);
      }
      ++a;
    }
    if (task.experts.is_first() && first_done != nullptr)
      first_done->store(true, std::memory_order_release);
    if (work.values.to == nullptr || task.experts.end() < groups.n_active) return;
    for (std::int64_t r = 0; r < result.n_rows; ++r)
      work.values.put(r * result.n_cols + col, result.row(r) + col, n);
  }

  const Expert& expert_of(const Groups& groups, std::int64_t active) const {
    return experts_[static_cast<std::size_t>(groups.active[active])];
  }

  // How many of the experts have as many rows as the first, as far as they go side by side.
  static std::int64_t alike(const Groups& groups, ExpertRange experts) {
    const auto rows = [&](std::int64_t i) {
      const std::int32_t e = groups.active[experts.first + i];
      return groups.end[e] - groups.begin[e];
    };
    std::int64_t n = 1;
    while (n < std::min<std::int64_t>(dot::kSideBySide, experts.n) && rows(n) == rows(0)) ++n;
    return n;
  }

  // Products of experts of m rows each with the task's columns of down, one expert after another in
  // `out`.
  void down_beside(const Work& work, const Task& task, ExpertRange experts, std::int64_t m,
                   float* out) const noexcept {
    const Groups& groups = work.groups;
    const std::int64_t width = work.blocking.model_chunk;
    const auto [col, n] = task.chunks.at(task.node, task.index);
    const bool last = task.index + 1 == task.count;
    const std::int64_t then = last ? col : task.chunks.at(task.node, task.index + 1).begin;
    backend::BesideProduct products[dot::kSideBySide];
    for (std::int64_t i = 0; i < experts.n; ++i) {
      const std::int64_t a = experts.first + i, later = a + experts.n;
      const PackedMatrix& down = expert_of(groups, a).down;
      const std::byte* next = nullptr;
      if (later < task.experts.end()) {
        next = expert_of(groups, later).down.rows_at(col);
      } else if (!last) {
        next = expert_of(groups, task.experts.first + i).down.rows_at(then);
      }
      products[i] = {&down, work.hidden.view(groups.begin[groups.active[a]]), out + i * m * width,
                     next};
    }
    backend::dot_beside({products, static_cast<std::size_t>(experts.n)}, m, col, n, width);
  }

  // NaN stays NaN.
  void clamp(float* gate, float* up, std::int64_t n) const noexcept {
    for (std::int64_t i = 0; i < n; ++i) {
      if (gate[i] > limit_) gate[i] = limit_;
      if (up[i] > limit_) up[i] = limit_;
      if (up[i] < -limit_) up[i] = -limit_;
    }
  }

  // Of the experts, on the GPU too.
  std::int64_t slots_of(const Builder& at) const {
    if (at.placement().expert_cache == ExpertCacheMode::kOff) return 0;
    const std::int64_t n = at.whole("gpu_experts", 0);
    if (n < 0 || n > n_experts_)
      fail(ErrorCode::kUsage, path(), "gpu_experts: {} of {} experts", n, n_experts_);
    return n;
  }

  float limit_;
  std::optional<int> gpu_;  // that the layer's other modules are on
  StreamExperts mode_;
  std::int64_t n_on_gpu_;
  ExpertStream* stream_ = nullptr;  // null: the CPU computes all
  ExpertStream::Layer layer_ = nullptr;
  ExpertCache* cache_ = nullptr;
  ExpertCache::Layer* cached_ = nullptr;  // null: the GPU has none
  backend::NodeBuffer storage_;           // of all matrices
  std::vector<Expert> experts_;
  std::vector<std::uint64_t> uses_;  // [n_experts]
};

// The original's CPU kernel families, as what they do to the weights.
Recode backend_recode(const Builder& at) {
  const std::string backend = at.text("backend", "llamafile");
  if (backend == "AMXInt8") return {Recode::Kind::kGroup, 8, -1};
  if (backend == "AMXInt4") return {Recode::Kind::kGroup, 4, -1};
  if (backend == "AMXBF16") return {Recode::Kind::kBf16};
  return {};
}

std::unique_ptr<Experts> make_for(const Builder& at, const ExpertsSpec& spec, Recode recode) {
  if (!at.gpu()) return std::make_unique<CpuExperts>(at, spec, recode);
  // GPUs have experts in BF16, none in F32.
  if (recode.kind == Recode::Kind::kDense) recode.kind = Recode::Kind::kBf16;
  return make_gpu_experts(at, spec, recode);
}

}  // namespace

std::unique_ptr<Experts> make_stored_experts(const Builder& at, const ExpertsSpec& spec) {
  return make_for(at, spec, backend_recode(at));
}

std::unique_ptr<Experts> make_dense_experts(const Builder& at, const ExpertsSpec& spec) {
  return make_for(at, spec, Recode{Recode::Kind::kDense});
}

std::unique_ptr<Experts> make_group_experts(const Builder& at, const ExpertsSpec& spec) {
  return make_for(at, spec, group_recode(at));
}

}  // namespace kt::operators
