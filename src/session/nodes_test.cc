// Whole models on machines of several NUMA nodes that are not there: what is bound where, who reads
// it, and that nothing of it changes a logit.
#include "session/nodes.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <map>

#include "engine/engine.h"
#include "models/model.h"
#include "session/dummy_source.h"

namespace kt::session {
namespace {

using backend::ActPolicy;

constexpr std::size_t kPage = 4096;

io::ModelConfig qwen3_moe() {
  io::ModelConfig c;
  c.architecture = "qwen3_moe";
  c.n_layers = 2;
  c.d_model = 256;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 64;
  c.vocab_size = 333;
  c.max_context = 128;
  c.moe.n_experts = 4;
  c.moe.n_active = 2;
  c.moe.d_ff = 256;
  return c;
}

io::ModelConfig deepseek() {
  io::ModelConfig c = qwen3_moe();
  c.architecture = "deepseek_v3";
  c.n_heads = c.n_kv_heads = 5;
  c.d_ff = 544;
  c.mla = {96, 64, 32, 16, 32};
  c.moe.n_shared = 1;
  c.moe.d_ff_shared = 256;
  c.moe.n_dense_layers = 1;
  c.moe.score = io::RouterScore::kSigmoid;
  c.moe.correction_bias = true;
  return c;
}

struct Bound {
  std::span<std::byte> pages;
  int node = 0;
};

/// Takes the right to touch bound pages away, and records who touches each first.
class PageWatch {
 public:
  explicit PageWatch(ThreadPool& pool, const std::vector<Bound>& bound = {}) : pool_(pool) {
    learn_threads();
    watch_ = this;
    struct sigaction action{};
    action.sa_sigaction = [](int, siginfo_t* info, void*) { watch_->touch(info->si_addr); };
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, &old_);
    for (const Bound& b : bound) add(b);
  }
  ~PageWatch() {
    for (const Bound& b : bound_)
      ::mprotect(b.pages.data(), b.pages.size(), PROT_READ | PROT_WRITE);
    ::sigaction(SIGSEGV, &old_, nullptr);
    watch_ = nullptr;
  }
  PageWatch(const PageWatch&) = delete;
  PageWatch& operator=(const PageWatch&) = delete;
  // While no region runs.
  void add(const Bound& bound) {
    bound_.push_back(bound);
    touched_.emplace_back(bound.pages.size() / kPage);
    ::mprotect(bound.pages.data(), bound.pages.size(), PROT_NONE);
  }
  int n_by_others() const { return n_by_others_; }
  // Pages that nobody touched.
  std::size_t n_untouched() const {
    std::size_t n = 0;
    for (const auto& pages : touched_) {
      n += static_cast<std::size_t>(std::count(pages.begin(), pages.end(), 0));
    }
    return n;
  }

 private:
  // Every worker takes one task, since none returns before all have one.
  void learn_threads() {
    threads_.resize(static_cast<std::size_t>(pool_.size()));
    std::atomic<int> n_here{0};
    pool_.run_nodes(
        [&](int node) {
          int n = 0;
          for (int w = 0; w < pool_.size(); ++w) n += pool_.node_of(w) == node ? 1 : 0;
          return n;
        },
        [&](int node, std::int64_t, int worker) {
          threads_[static_cast<std::size_t>(worker)] = {pthread_self(), node};
          ++n_here;
          while (n_here < pool_.size()) sched_yield();
        });
  }

  void touch(void* address) {
    const auto* at = static_cast<std::byte*>(address);
    for (std::size_t i = 0; i < bound_.size(); ++i) {
      const std::span<std::byte> pages = bound_[i].pages;
      if (at < pages.data() || at >= pages.data() + pages.size()) continue;
      const auto page = static_cast<std::size_t>(at - pages.data()) / kPage;
      for (const auto& [thread, node] : threads_) {
        if (pthread_equal(thread, pthread_self()) && node != bound_[i].node) ++n_by_others_;
      }
      touched_[i][page] = 1;
      ::mprotect(pages.data() + page * kPage, kPage, PROT_READ | PROT_WRITE);
      return;
    }
    ::signal(SIGSEGV, SIG_DFL);  // somebody else's fault
  }

  static PageWatch* watch_;
  ThreadPool& pool_;
  std::vector<Bound> bound_;
  std::vector<std::vector<char>> touched_;          // of each range, its pages
  std::vector<std::pair<pthread_t, int>> threads_;  // of each worker, with its node
  std::atomic<int> n_by_others_{0};
  struct sigaction old_{};
};
PageWatch* PageWatch::watch_ = nullptr;

struct Case {
  std::vector<int> n_workers;
  const char* type = "Q8_0";
  ActPolicy act = ActPolicy::kQ16;
  bool tiles = false;
};

/// A loaded model on these nodes, numbered from 10.
class Machine {
 public:
  Machine(const io::WeightSource& source, const operators::Placement& placement, const Case& c)
      : cpu_(place(c), detect_caps(), c.act),
        model_(models::build_model(source.config(), placement)) {
    cpu_.batch_kernels = c.tiles ? backend::BatchKernels::kAll : backend::BatchKernels::kNone;
    PageWatch watch(cpu_.pool);
    loading_ = &watch;
    operators::Loader loader(source, cpu_, {});
    models::load_model(*model_, loader);
    loading_ = nullptr;
    EXPECT_EQ(watch.n_by_others(), 0) << "packed by another node's workers";
    EXPECT_EQ(watch.n_untouched(), 0u);
  }
  backend::Cpu& cpu() { return cpu_; }
  operators::Model& model() { return *model_; }
  const std::vector<Bound>& bound() const { return bound_; }

  // Logits of every prompt row, fed in chunks or row by row, and of what is generated after it.
  std::vector<float> logits(bool by_decode) {
    engine::EngineOptions options;
    options.context = 128;
    options.chunk_size = 64;
    engine::Engine engine(*model_, cpu_, options);
    std::vector<float> all;
    engine::Request r;
    for (std::int32_t i = 0; i < (by_decode ? 9 : 80); ++i) r.prompt.push_back((i * 37 + 11) % 300);
    r.sampling.temperature = 0.0f;
    r.max_tokens = 4;
    r.ignore_stop_tokens = true;
    r.prompt_by_decode = by_decode;
    r.on_prompt_logits = [&](std::int64_t, std::span<const float> row) {
      all.insert(all.end(), row.begin(), row.end());
    };
    for (const std::int32_t id : engine.generate(std::move(r)).tokens)
      all.push_back(static_cast<float>(id));
    return all;
  }

 private:
  backend::CpuPlace place(const Case& c) {
    backend::CpuPlace place;
    for (const int n : c.n_workers) {
      place.workers.push_back({10 + static_cast<int>(place.workers.size()), n, {}});
    }
    place.bind = [this](std::span<std::byte> pages, std::span<const int> nodes) {
      if (loading_ == nullptr) return 0;  // the cache of keys and values
      EXPECT_EQ(nodes.size(), 1u);
      bound_.push_back({pages, nodes[0] - 10});
      loading_->add(bound_.back());
      return 0;
    };
    return place;
  }

  std::vector<Bound> bound_;
  PageWatch* loading_ = nullptr;
  backend::Cpu cpu_;
  std::unique_ptr<operators::Model> model_;
};

// Latent attention in absorbed form for prompts too.
operators::Placement absorbed(const io::ModelConfig& config) {
  operators::Placement placement;
  const auto model = models::build_model(config, placement);
  operators::walk(*model, [&](operators::Module& m) {
    if (m.kind() != "Attention" || config.mla.kv_lora_rank == 0) return;
    placement.entries[m.path()].op = "KLatentAttention";
    placement.entries[m.path()].device = "cpu";
  });
  return placement;
}

std::unique_ptr<io::WeightSource> source(const io::ModelConfig& config, const char* type) {
  return make_dummy_source(config, file_type(type), {});
}

TEST(Nodes, LogitsAreThoseOfOneNode) {
  const Case cases[] = {{{1, 1}, "Q4_K_M"},
                        {{3, 1}, "Q8_0", ActPolicy::kQ8},
                        {{1, 2, 1, 1}, "BF16", ActPolicy::kF32},
                        {{2, 3}, "Q4_K_M", ActPolicy::kQ16, true},
                        {{1, 1, 1, 1}, "BF16", ActPolicy::kQ8, true}};
  for (const io::ModelConfig& config : {qwen3_moe(), deepseek()}) {
    for (const Case& c : cases) {
      SCOPED_TRACE(config.architecture + " " + c.type + " " + std::to_string(c.n_workers.size()));
      const auto weights = source(config, c.type);
      Machine one(*weights, {}, {{2}, c.type, c.act, c.tiles});
      EXPECT_TRUE(one.bound().empty());
      Machine several(*weights, {}, c);
      for (const bool by_decode : {false, true}) {
        EXPECT_EQ(several.logits(by_decode), one.logits(by_decode));
      }
    }
  }
}

TEST(Nodes, EveryPageIsBoundOnceAndReadByItsNode) {
  for (const io::ModelConfig& config : {qwen3_moe(), deepseek()}) {
    const auto weights = source(config, "Q8_0");
    for (const auto& n_workers : {std::vector{1, 1}, std::vector{3, 1}, std::vector{1, 2, 1, 1}}) {
      SCOPED_TRACE(config.architecture + " " + std::to_string(n_workers.size()));
      Machine machine(*weights, absorbed(config), {n_workers, "Q8_0", ActPolicy::kQ8});
      // Disjoint ranges, no larger than the matrices rounded to pages; vectors are not among them.
      std::vector<Bound> sorted = machine.bound();
      std::sort(sorted.begin(), sorted.end(),
                [](const Bound& a, const Bound& b) { return a.pages.data() < b.pages.data(); });
      std::size_t n_bytes = 0;
      std::map<int, std::size_t> of_node;
      for (std::size_t i = 0; i < sorted.size(); ++i) {
        n_bytes += sorted[i].pages.size();
        of_node[sorted[i].node] += sorted[i].pages.size();
        EXPECT_TRUE(i == 0 || &sorted[i - 1].pages.back() < sorted[i].pages.data());
      }
      std::size_t n_weights = 0;
      operators::walk(machine.model(), [&](operators::Module& m) {
        const bool matrices =
            m.kind() == "Linear" || m.kind() == "Experts" || m.kind() == "Attention";
        if (matrices) n_weights += m.weight_bytes();
      });
      EXPECT_GE(n_bytes, n_weights);
      EXPECT_LE(n_bytes, n_weights + sorted.size() * kPage);
      for (const auto& [node, bytes] : of_node) {
        const double even = static_cast<double>(n_weights) *
                            n_workers[static_cast<std::size_t>(node)] / machine.cpu().pool.size();
        EXPECT_NEAR(static_cast<double>(bytes), even, 0.5 * even) << "small matrices";
      }

      const PageWatch prefill(machine.cpu().pool, machine.bound());
      machine.logits(false);
      EXPECT_EQ(prefill.n_by_others(), 0);
      EXPECT_EQ(prefill.n_untouched(), 0u);
    }
  }
}

TEST(Nodes, DecodingReadsOwnPagesOnly) {
  const auto weights = source(deepseek(), "Q4_K_M");
  Machine machine(*weights, {}, {{1, 2}, "Q4_K_M"});
  for (int i = 0; i < 3; ++i) {
    const PageWatch watch(machine.cpu().pool, machine.bound());
    machine.logits(true);
    EXPECT_EQ(watch.n_by_others(), 0);
  }
}

TEST(Nodes, APageReadByAnotherNodeIsSeen) {
  ThreadPool pool({{0, 1, {}}, {1, 1, {}}});
  const backend::Pages pages(2 * kPage);
  const std::vector<Bound> bound = {{pages.bytes(), 1}};
  const PageWatch watch(pool, bound);
  pool.run_nodes([](int) { return 1; },
                 [&](int node, std::int64_t, int) {
                   pages.bytes()[static_cast<std::size_t>(node) * kPage] = std::byte{1};
                 });
  EXPECT_EQ(watch.n_by_others(), 1);
  EXPECT_EQ(watch.n_untouched(), 0u);
}

Topology two_nodes(std::uint64_t first, std::uint64_t second) {
  Topology t;
  t.cores = {0, 1, 2, 3};
  t.nodes = {{0, {0, 1}, first, first}, {1, {2, 3}, second, second}};
  return t;
}

TEST(Nodes, PlanDividesWhatFits) {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  const NodePlan plan = plan_nodes(two_nodes(10 * kGiB, 10 * kGiB), 3, 12 * kGiB);
  ASSERT_EQ(plan.place.workers.size(), 2u);
  EXPECT_TRUE(plan.place.interleave.empty());
  EXPECT_EQ(plan.summary, "weights divided over 2 NUMA nodes (2 + 1 threads), one copy");
}

TEST(Nodes, PlanDealsOutWhatOneNodeCannotHold) {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  const NodePlan plan = plan_nodes(two_nodes(20 * kGiB, 5 * kGiB), 3, 18 * kGiB);
  ASSERT_EQ(plan.place.workers.size(), 1u);
  EXPECT_EQ(plan.place.workers[0].n_workers, 3);
  EXPECT_EQ(plan.place.workers[0].cores, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(plan.place.interleave, (std::vector<int>{0, 1}));
  EXPECT_NE(plan.summary.find("node 1 has 5.0 GiB available, its part with 1 of 3 threads is 6.0"),
            std::string::npos)
      << plan.summary;
}

TEST(Nodes, OneNodeHasNothingToSay) {
  Topology t = two_nodes(1, 1);
  t.nodes.pop_back();
  EXPECT_TRUE(plan_nodes(t, 2, 100).summary.empty());
  EXPECT_TRUE(plan_nodes(two_nodes(1, 1), 1, 100).summary.empty()) << "one thread, one node";
}

}  // namespace
}  // namespace kt::session
