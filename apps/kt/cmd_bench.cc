// kt bench: prefill (pp) and decode (tg) speed of a model file, or of a config.json with random
// weights. Every sample is one request through the engine, the same loop that run and chat use.
// With --kernels it measures kernels and layers instead (kernel_bench.h).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "commands.h"
#include "formats/format.h"
#include "io/atomic_file.h"
#include "kernel_bench.h"
#include "module_report.h"
#include "options.h"
#include "print.h"
#include "progress.h"
#include "session/file_type.h"

namespace kt::app {
namespace {

struct BenchArgs {
  session::Options options;
  std::string dummy_config;
  std::string type = "Q4_K_M";
  std::int64_t layers = 0;
  double router_skew = 0.0;
  std::string prompts = "512";
  std::string generated = "128";
  std::int64_t depth = 0;
  int repetitions = 5;
  bool no_warmup = false;
  JsonTarget json;
  KernelBenchArgs kernels;
  bool per_module = false;
};

struct Test {
  bool prefill = true;
  std::int64_t n = 0;
  std::int64_t depth = 0;     // tokens in the cache before
  std::vector<double> rates;  // tokens per second
  std::string modules;        // the table of --per-module
  operators::ExpertUse use;   // of experts on the CPU
  std::string name() const {
    return fmt::format("{}{}{}", prefill ? "pp" : "tg", n,
                       depth > 0 ? fmt::format(" @ {}", depth) : "");
  }
  double mean() const {
    double sum = 0.0;
    for (const double r : rates) sum += r;
    return sum / static_cast<double>(rates.size());
  }
  double deviation() const {
    if (rates.size() < 2) return 0.0;
    const double m = mean();
    double sum = 0.0;
    for (const double r : rates) sum += (r - m) * (r - m);
    return std::sqrt(sum / static_cast<double>(rates.size() - 1));
  }
};

/// Where rows of experts on the CPU were computed; empty without a cache of them.
std::string cache_line(const Test& test) {
  const operators::ExpertUse& use = test.use;
  if (use.n_cached == 0) return {};
  const double all = static_cast<double>(use.n_cached + use.n_rows);
  return fmt::format("{}: {:.1f} % of the experts' rows hit the expert cache\n", test.name(),
                     100.0 * static_cast<double>(use.n_cached) / all);
}

/// "512,1024" → tests; "0" or "" → none.
void parse_sizes(const std::string& flag, const std::string& text, const Test& kind,
                 std::vector<Test>* tests) {
  std::stringstream words(text);
  std::string word;
  while (std::getline(words, word, ',')) {
    std::string checked = word;
    const std::string problem = whole_number(0, 1 << 24)(checked);
    if (!problem.empty())
      fail(ErrorCode::kUsage, flag, "{}; a list such as 512,1024 is wanted", problem);
    const std::int64_t n = std::stoll(word);
    if (n == 0) continue;
    tests->push_back(kind);
    tests->back().n = n;
  }
}

engine::Result generate(session::Session& session, std::vector<std::int32_t> prompt,
                        std::int64_t n_tokens, bool reuse) {
  engine::Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0.0f;
  request.logprobs = false;
  request.reuse_prefix = reuse;
  request.ignore_stop_tokens = true;
  request.max_tokens = n_tokens;
  return session.engine().generate(std::move(request));
}

/// Adds n random tokens; each `seed` gives others.
void add_tokens(session::Session& session, std::int64_t n, std::uint64_t seed,
                std::vector<std::int32_t>* tokens) {
  const auto vocab = static_cast<std::uint64_t>(session.engine().vocab_size());
  std::uint64_t state = 0x9e3779b97f4a7c15u + seed;
  for (std::int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens->push_back(static_cast<std::int32_t>((state >> 33) % vocab));
  }
}

/// Tokens per second; those of test.depth come from the cache, where the first call puts them.
double measure(session::Session& session, const Test& test, std::uint64_t seed) {
  std::vector<std::int32_t> prompt;
  add_tokens(session, test.depth, 0, &prompt);
  if (test.depth > 0) {
    session.engine().set_trace(nullptr);
    generate(session, prompt, 1, true);
    session.engine().set_trace(session.trace());
  }
  add_tokens(session, test.prefill ? test.n : 1, seed + 1, &prompt);
  const engine::Result result =
      generate(session, std::move(prompt), test.prefill ? 1 : test.n + 1, test.depth > 0);
  const auto steps =
      static_cast<double>(test.prefill ? result.n_prompt - result.n_cached
                                       : static_cast<std::int64_t>(result.tokens.size()) - 1);
  return steps / std::max(test.prefill ? result.prefill_seconds : result.decode_seconds, 1e-9);
}

struct ModelSize {
  double parameters = 0.0;
  std::uint64_t bytes = 0;
};

ModelSize size_of(session::Session& session) {
  ModelSize size;
  operators::walk(session.model(), [&size](operators::Module& module) {
    for (const operators::WeightSpec& spec : module.weights()) {
      size.parameters += static_cast<double>(spec.shape.count());
    }
    size.bytes += module.weight_bytes();
  });
  return size;
}

void run_tests(session::Session& session, const BenchArgs& args, const Ceilings* ceilings,
               std::vector<Test>* tests) {
  for (Test& test : *tests) {
    if (!args.no_warmup) {
      Test warm = test;
      warm.n =
          std::min<std::int64_t>(test.n, test.prefill ? session.engine().options().chunk_size : 4);
      measure(session, warm, 0);
    }
    if (args.per_module) session.trace()->clear();
    const operators::ExpertUse before = session.engine().expert_use();
    for (int r = 0; r < args.repetitions; ++r) {
      test.rates.push_back(measure(session, test, static_cast<std::uint64_t>(r) + 1));
      std::fprintf(stderr, "%s %d/%d: %.2f tokens/s\n", test.name().c_str(), r + 1,
                   args.repetitions, test.rates.back());
      std::fflush(stderr);
    }
    const operators::ExpertUse& after = session.engine().expert_use();
    test.use = {after.n_rows - before.n_rows, after.n_reads - before.n_reads,
                after.n_cached - before.n_cached};
    if (ceilings != nullptr) test.modules = module_report(session, *ceilings, test.prefill);
  }
}

void write_json(const JsonTarget& target, const std::string& text) {
  if (target.file.empty()) {
    std::fputs(text.c_str(), stdout);
  } else {
    io::write_file(target.file, text);
  }
}

void print_json(session::Session& session, const BenchArgs& args, const std::string& label,
                const std::vector<Test>& tests) {
  const ModelSize size = size_of(session);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Test& test : tests) {
    rows.push_back({{"model", label},
                    {"architecture", session.config().architecture},
                    {"n_params", size.parameters},
                    {"weight_bytes", size.bytes},
                    {"cpu", cpu_model_name()},
                    {"isa", describe_caps(session.cpu().caps)},
                    {"n_threads", session.cpu().pool.size()},
                    {"act", args.options.act},
                    {"kv", args.options.kv},
                    {"chunk", session.engine().options().chunk_size},
                    {"test", test.name()},
                    {"n_prompt", test.prefill ? test.n : 0},
                    {"n_gen", test.prefill ? 0 : test.n},
                    {"n_depth", test.depth},
                    {"avg_ts", test.mean()},
                    {"stddev_ts", test.deviation()},
                    {"expert_rows", test.use.n_rows},
                    {"expert_rows_cached", test.use.n_cached},
                    {"samples_ts", test.rates}});
  }
  write_json(args.json, rows.dump(2) + "\n");
}

void print_table(session::Session& session, const std::string& label,
                 const std::vector<Test>& tests) {
  const ModelSize size = size_of(session);
  Table table("lrrlrrr");
  table.row({"model", "size", "params", "isa", "threads", "test", "t/s"});
  for (const Test& test : tests) {
    table.row({label, format_bytes(static_cast<double>(size.bytes)), format_count(size.parameters),
               describe_caps(session.cpu().caps), std::to_string(session.cpu().pool.size()),
               test.name(), fmt::format("{:.2f} ± {:.2f}", test.mean(), test.deviation())});
  }
  std::fputs(table.markdown().c_str(), stdout);
  for (const Test& test : tests) std::fputs(cache_line(test).c_str(), stdout);
}

int bench(BenchArgs args) {
  std::vector<Test> tests;
  parse_sizes("--prompt", args.prompts, {.prefill = true, .depth = args.depth}, &tests);
  parse_sizes("--gen", args.generated, {.prefill = false, .depth = args.depth}, &tests);
  if (tests.empty())
    fail(ErrorCode::kUsage, "kt bench", "nothing to measure: give -p or -n above 0");
  if (args.dummy_config.empty() == args.options.model.empty()) {
    fail(ErrorCode::kUsage, "kt bench", "give either MODEL or --dummy config.json");
  }
  if (args.per_module && args.json.wanted)
    fail(ErrorCode::kUsage, "--per-module", "prints tables; leave --json out");
  args.options.need_text = false;
  args.options.trace |= args.per_module;
  if (args.options.context == 0) {
    for (const Test& test : tests)
      args.options.context = std::max(args.options.context, args.depth + test.n + 2);
  }
  std::string label = std::filesystem::path(args.options.model).filename().string();
  const auto bar = show_loading(args.options);
  std::unique_ptr<session::Session> session;
  if (args.dummy_config.empty()) {
    session = session::Session::open(args.options);
  } else {
    const std::string type = std::string(session::file_type(args.type).name);
    session = session::Session::open_dummy(args.options, args.dummy_config, type, args.layers,
                                           args.router_skew);
    label = fmt::format("{} (dummy {}, {} layers)",
                        std::filesystem::path(args.dummy_config).stem().string(), type,
                        session->config().n_layers);
  }
  bar->finish();
  const std::string& gpus = session->load_report().gpus;
  std::fputs((load_line(session->load_report()) + gpus + (gpus.empty() ? "" : "\n")).c_str(),
             stderr);
  std::optional<Ceilings> ceilings;
  if (args.per_module) ceilings = measure_ceilings(*session);
  run_tests(*session, args, ceilings ? &*ceilings : nullptr, &tests);
  finish_trace(*session, args.options.trace_file);
  if (args.json.wanted) {
    print_json(*session, args, label, tests);
  } else {
    print_table(*session, label, tests);
    for (const Test& test : tests) {
      if (!test.modules.empty()) std::printf("\n%s\n%s", test.name().c_str(), test.modules.c_str());
    }
  }
  return 0;
}

}  // namespace

void add_bench(CLI::App& root, Action& action) {
  auto args = std::make_shared<BenchArgs>();
  CLI::App* command =
      root.add_subcommand("bench", "Measure prefill and decode speed, or kernels one by one");
  command->group("Measure");
  command->add_option("MODEL", args->options.model, "A model file, folder or name; or use --dummy")
      ->type_name("");
  command->add_option("-p,--prompt", args->prompts, "Prompt lengths to measure; 0: none")
      ->type_name("N,…")
      ->capture_default_str();
  command
      ->add_option("-n,--gen", args->generated, "Numbers of generated tokens to measure; 0: none")
      ->type_name("N,…")
      ->capture_default_str();
  command->add_option("-d,--depth", args->depth, "Tokens in the cache before what is measured")
      ->check(whole_number(0, 1 << 24))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("-r,--repetitions", args->repetitions, "Samples per test")
      ->check(whole_number(1, 1000))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--dummy", args->dummy_config, "Random weights in the shape of this config.json")
      ->type_name("CONFIG");
  command
      ->add_option("--type", args->type, "File type of --dummy, as kt quantize --help lists them")
      ->type_name("TYPE")
      ->capture_default_str();
  command->add_option("--layers", args->layers, "Layers of --dummy; 0: all")
      ->check(whole_number(0, 100000))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--router-skew", args->router_skew,
                   "Routers of --dummy prefer some experts: 0.5 about as much as trained ones")
      ->check(CLI::Range(0.0, 4.0))
      ->type_name("S")
      ->capture_default_str();
  command->add_flag("--no-warmup", args->no_warmup, "Measure the first run too");
  command->add_flag("--per-module", args->per_module,
                    "Print time and share of the machine's ceiling per kind of module");
  command->add_option("--json", args->json.file, "JSON instead of a table, or into this file")
      ->expected(0, 1)
      ->type_name("[FILE]");
  add_kernel_bench_options(*command, args->kernels);
  add_model_options(*command, args->options);
  command->footer(examples({"kt bench model.gguf -p 512 -n 128 -r 5",
                            "kt bench --dummy DeepSeek-V3/config.json --type Q4_K_M --layers 4",
                            "kt bench --kernels 'moe|q4_k' --shapes qwen3-30b --json now.json"}));
  command->callback([args, command, &action] {
    args->json.wanted = command->count("--json") > 0;
    if (command->count("--kernels") > 0) {
      action = [args, command] {
        return kernel_bench(*command, args->kernels, args->options, args->repetitions, args->json);
      };
      return;
    }
    refuse_kernel_bench_options(*command);
    // `--json model.gguf`: the word is the model, when there is no other.
    if (args->options.model.empty() && args->dummy_config.empty())
      std::swap(args->options.model, args->json.file);
    action = [args] { return bench(*args); };
  });
}

}  // namespace kt::app
