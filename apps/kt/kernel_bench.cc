#include "kernel_bench.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "base/error.h"
#include "io/atomic_file.h"
#include "print.h"
#include "session/bench/kernel_bench.h"

namespace kt::app {
namespace {

namespace bench = session::bench;

std::string share(double part, double whole) {
  return whole > 0.0 ? fmt::format("{:.0f} %", 100.0 * part / whole) : std::string();
}

std::string milliseconds(double seconds) {
  const double ms = seconds * 1e3;
  return ms < 1.0 ? fmt::format("{:.4f}", ms) : fmt::format("{:.2f}", ms);
}

std::string ceilings_text(const bench::Report& report) {
  const bench::Machine& m = report.machine;
  std::string text = fmt::format("{}, {}, {} threads, act {}, last cache {}, huge pages {}\n",
                                 m.cpu, m.isa, m.n_threads, m.act,
                                 format_bytes(static_cast<double>(m.cache_bytes)), m.huge_pages);
  text += "memory read, GB/s (best):";
  for (const session::BandwidthPoint& p : report.ceilings.read) {
    text += fmt::format("  {} thr {:.1f} ({:.1f})", p.n_threads, p.median / 1e9,
                        p.bytes_per_second / 1e9);
  }
  text += "\n";
  for (const bench::Peak& p : report.ceilings.peaks) {
    text += fmt::format("{}: {:.3f} TOPS (best {:.3f})\n", p.kernel->name, p.rate.median / 1e12,
                        p.rate.high / 1e12);
  }
  return text;
}

std::string remarks(const bench::Result& r, const bench::Result& first, bool lost) {
  std::string text;
  const auto add = [&](const std::string& remark) { text += (text.empty() ? "" : "; ") + remark; };
  if (r.kernel != first.kernel) add(r.kernel);
  if (r.slower_than_next) add("slower than the next");
  if (lost) add("SLOWER than the baseline");
  return text;
}

// One table per case.
std::string results_text(const bench::Report& report) {
  std::string text;
  for (std::size_t i = 0; i < report.results.size();) {
    const bench::Result& first = report.results[i];
    text += fmt::format("\n{}  [", first.name);
    text += !first.about.empty() ? first.about
                                 : fmt::format("{} x {}, {:.2f} bits a weight", first.d_ff,
                                               first.d_model, first.bits_per_weight);
    if (first.n_experts != 0) {
      text += fmt::format(", {} experts, {} active, {} layers; {}", first.n_experts, first.n_active,
                          first.n_copies, first.kernel);
    }
    text += first.note.empty() ? "]\n" : fmt::format("]  NOTE: {}\n", first.note);
    Table table("rrrrrrrrl");
    table.row({"m", "ms", "10-90 %", "GB/s", "of read", "TOPS", "of peak", "error", ""});
    for (; i < report.results.size() && report.results[i].name == first.name; ++i) {
      const bench::Result& r = report.results[i];
      const bool lost = std::any_of(report.losses.begin(), report.losses.end(),
                                    [&](const bench::Loss& l) { return l.result == i; });
      table.row(
          {std::to_string(r.m), milliseconds(r.seconds.median),
           milliseconds(r.seconds.low) + "-" + milliseconds(r.seconds.high),
           fmt::format("{:.1f}", r.bytes_per_second / 1e9), share(r.bytes_per_second, r.read),
           fmt::format("{:.3f}", r.ops_per_second / 1e12),
           fmt::format("{} {}", share(r.ops_per_second, r.peak), bench::name_of(r.arithmetic)),
           fmt::format("{:.2e}", r.error), remarks(r, first, lost)});
    }
    text += table.markdown();
  }
  return text;
}

std::string comparison_text(const bench::Report& report) {
  std::string text = fmt::format("\n{} of {} results are in the baseline; {} lost more than 10 %\n",
                                 report.n_compared, report.results.size(), report.losses.size());
  if (report.n_compared == 0)
    text += "  a result is compared with the same name, m, --threads and --act\n";
  for (const bench::Loss& loss : report.losses) {
    const bench::Result& r = report.results[loss.result];
    text += fmt::format("  {} m {}: {} ms, was {} ms (+{:.0f} %)\n", r.name, r.m,
                        milliseconds(r.seconds.median), milliseconds(loss.before),
                        100.0 * (r.seconds.median / loss.before - 1.0));
  }
  return text;
}

// A requested mode that cannot be honoured is an error.
void check_flags(const CLI::App& command) {
  static const std::set<std::string> kTaken = {"--kernels",  "--formats", "--shapes",     "--m",
                                               "--baseline", "--json",    "--threads",    "--isa",
                                               "--act",      "--help",    "--repetitions"};
  for (const CLI::Option* option : command.get_options()) {
    const std::string name =
        option->get_lnames().empty() ? option->get_name() : "--" + option->get_lnames().front();
    if (option->count() > 0 && kTaken.count(name) == 0) {
      fail(ErrorCode::kUsage, "--kernels", "measures kernels, not a model: leave out {}", name);
    }
  }
}

}  // namespace

void add_kernel_bench_options(CLI::App& command, KernelBenchArgs& args) {
  const std::string group = "Kernels instead of a model";
  const auto add = [&](const char* flag, std::string& value, const char* type, const char* text) {
    return command.add_option(flag, value, text)->type_name(type)->group(group);
  };
  add("--kernels", args.filter, "[FILTER]",
      "Measure CPU kernels, MoE layers and attention whose names match a regular expression")
      ->expected(0, 1);
  add("--formats", args.formats, "LIST", "Weights, such as q4_k,q8_0,bf16,int8,int4");
  add("--shapes", args.shapes, "LIST",
      "deepseek-v3, kimi-k2, qwen3-235b, qwen3-30b, qwen3-next, or DxF:EXPERTS:ACTIVE");
  add("--m", args.sizes, "LIST", "Rows (tokens) per call, such as 1,2,8-16,64:2048 (: doubles)");
  add("--baseline", args.baseline, "FILE",
      "Compare with an earlier --json file; status 1 for a loss of more than 10 %");
}

void refuse_kernel_bench_options(const CLI::App& command) {
  for (const char* name : {"--formats", "--shapes", "--m", "--baseline"}) {
    if (command.count(name) > 0)
      fail(ErrorCode::kUsage, name, "belongs to --kernels; give that instead of a model");
  }
}

int kernel_bench(const CLI::App& command, const KernelBenchArgs& args,
                 const session::Options& options, int repetitions, const JsonTarget& json) {
  check_flags(command);
  bench::Request request;
  request.options = options;
  request.selection = {args.filter, bench::split_list(args.formats),
                       bench::split_list(args.shapes)};
  if (!args.sizes.empty()) request.sizes = bench::parse_sizes("--m", args.sizes);
  request.least_samples = repetitions;
  request.baseline = args.baseline;
  request.progress = [](const std::string& line) {
    std::fprintf(stderr, "%s\n", line.c_str());
    std::fflush(stderr);
  };
  const bench::Report report = bench::run_kernel_bench(request);
  const std::string text = bench::to_json(report.machine, report.ceilings, report.results).dump(1);
  if (json.wanted && json.file.empty()) {
    std::printf("%s\n", text.c_str());
  } else {
    std::fputs((ceilings_text(report) + results_text(report)).c_str(), stdout);
    if (!args.baseline.empty()) std::fputs(comparison_text(report).c_str(), stdout);
    if (json.wanted) io::write_file(json.file, text + "\n");
  }
  return report.losses.empty() ? 0 : 1;
}

}  // namespace kt::app
