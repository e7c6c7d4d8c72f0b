// kt quantize: any model to a GGUF file of another type, or random weights of any shape.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "base/thread_pool.h"
#include "base/topology.h"
#include "commands.h"
#include "input.h"
#include "options.h"
#include "print.h"
#include "progress.h"
#include "session/dummy_source.h"
#include "session/quantize.h"
#include "session/registry.h"

namespace kt::app {
namespace {

struct QuantizeArgs {
  std::vector<std::string> paths;  // [IN] OUT
  std::string dummy_config;
  session::QuantizeOptions options;
  session::DummyOptions dummy;
  std::int64_t layers = 0;
  int n_threads = 0;
  bool dry_run = false;
};

std::unique_ptr<io::WeightSource> open_source(const QuantizeArgs& args) {
  if (args.dummy_config.empty())
    return io::open_weights(session::resolve_model(args.paths.front()));
  return session::make_dummy_source(session::read_dummy_config(args.dummy_config, args.layers),
                                    session::file_type(args.options.type), args.dummy);
}

void check_paths(const QuantizeArgs& args) {
  const std::size_t n_inputs = args.dummy_config.empty() ? 1 : 0;
  const std::size_t n = args.paths.size();
  if (n != n_inputs + 1 && !(args.dry_run && n == 1)) {
    fail(ErrorCode::kUsage, "kt quantize", "{}",
         n_inputs == 1 ? "give IN and OUT: kt quantize model.gguf out.gguf --type Q4_K_M"
                       : "give one OUT with --dummy: kt quantize --dummy config.json out.gguf");
  }
  if (n_inputs == 0 && !args.options.imatrix.empty())
    fail(ErrorCode::kUsage, "--imatrix",
         "random weights of --dummy have no importance; leave it out");
  if (args.dry_run) return;
  const std::string& out = args.paths.back();
  std::error_code ignored;
  if (n_inputs == 1 && std::filesystem::equivalent(args.paths.front(), out, ignored)) {
    fail(ErrorCode::kUsage, out, "is the input too; name another output file");
  }
  check_writable(out);
}

int print_plan(const io::WeightSource& source, const session::QuantizeOptions& options) {
  Table table("lllr");
  double bytes = 0.0, weights = 0.0;
  for (const session::PlannedTensor& t : session::plan_quantize(source, options)) {
    const double size = static_cast<double>(formats::row_bytes(t.format, t.shape.n_cols())) *
                        static_cast<double>(t.shape.n_rows());
    bytes += size;
    weights += static_cast<double>(t.shape.count());
    table.row({t.name, t.shape.to_string(), std::string(formats::traits(t.format).name),
               format_bytes(size)});
  }
  std::fputs(table.text().c_str(), stdout);
  std::fprintf(stderr, "%s in %s, %.2f bits per weight; nothing was written\n",
               format_bytes(bytes).c_str(),
               options.copy ? "the formats of the source" : options.type.c_str(),
               8.0 * bytes / std::max(weights, 1.0));
  return 0;
}

int quantize(QuantizeArgs args) {
  session::file_type(args.options.type);  // an unknown type is an error before any file is touched
  check_paths(args);
  const auto source = open_source(args);
  if (args.dry_run) return print_plan(*source, args.options);
  args.options.output = args.paths.back();
  const Topology topology = detect_topology();
  ThreadPool pool(args.n_threads > 0 ? args.n_threads : default_threads(topology), topology.cores);
  Progress bar("quantizing");
  const auto begin = std::chrono::steady_clock::now();
  args.options.on_progress = [&](const std::string& tensor, std::uint64_t done,
                                 std::uint64_t total) {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    bar.update(
        done, total,
        transfer_detail(done, total, seconds > 0.0 ? static_cast<double>(done) / seconds : 0.0) +
            "  " + tensor);
  };
  const session::QuantizeReport report = session::quantize(*source, args.options, pool);
  bar.finish();
  std::fprintf(stderr, "%s: %lld tensors, %s in %s, %.2f bits per weight\n",
               args.options.output.c_str(), static_cast<long long>(report.n_tensors),
               format_bytes(static_cast<double>(report.bytes)).c_str(),
               args.options.copy ? "the formats of the source" : args.options.type.c_str(),
               8.0 * static_cast<double>(report.bytes) /
                   static_cast<double>(std::max<std::int64_t>(report.n_weights, 1)));
  return 0;
}

}  // namespace

void add_quantize(CLI::App& root, Action& action) {
  auto args = std::make_shared<QuantizeArgs>();
  CLI::App* command =
      root.add_subcommand("quantize", "Write a GGUF file of another type, or of random weights");
  command->group("Models");
  command
      ->add_option(
          "PATHS", args->paths,
          "IN OUT: a model and the .gguf file to write; only OUT with --dummy, IN with --dry-run")
      ->required()
      ->expected(1, 2)
      ->type_name("");
  command->add_option("--type", args->options.type, "File type; one of the list below")
      ->type_name("TYPE")
      ->capture_default_str();
  command->add_option("--imatrix", args->options.imatrix, "Importance matrix (GGUF or .dat)")
      ->type_name("FILE");
  command
      ->add_option("--name", args->options.name, "Name in the file's header; default: the model's")
      ->type_name("NAME");
  command->add_flag(
      "--copy", args->options.copy,
      "Keep the tensors of a GGUF file as they are; joins shards, changes the header");
  command->add_flag("--dry-run", args->dry_run, "Print what each tensor would become");
  command
      ->add_option("--dummy", args->dummy_config, "Random weights in the shape of this config.json")
      ->type_name("CONFIG");
  command->add_flag("--pooled", args->dummy.pooled,
                    "Repeat a few rows in the matrices of --dummy: quick, for speed measurements");
  command->add_option("--seed", args->dummy.seed, "Seed of --dummy")
      ->check(whole_number(0, std::numeric_limits<std::int64_t>::max()))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--layers", args->layers, "Layers of --dummy; 0: all")
      ->check(whole_number(0, 100000))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("-t,--threads", args->n_threads,
                   "Threads; 0: the physical cores this process may use")
      ->check(whole_number(0, 1024))
      ->type_name("N")
      ->capture_default_str();
  std::string types = "Types:";
  std::size_t column = 0;
  for (const session::FileType& type : session::file_types()) {
    if (column++ % 10 == 0) types += "\n ";
    types += " " + std::string(type.name);
  }
  types += "\nIQ1_*, IQ2_*, IQ3_XS, IQ3_XXS and Q2_K_S need --imatrix.";
  command->footer(types + "\n\n" +
                  examples({"kt quantize Qwen3-30B-A3B/ qwen3-q4_k_m.gguf --type Q4_K_M",
                            "kt quantize --dummy config.json random.gguf --type Q8_0 --layers 2"}));
  command->callback([args, &action] { action = [args] { return quantize(*args); }; });
}

}  // namespace kt::app
