// kt doctor: what this machine is, what kt will use of it, and tests of the fast kernels against
// the reference kernels: a real two-layer forward on the CPU, every family alone on GPUs.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/topology.h"
#include "base/utf8.h"
#include "commands.h"
#include "formats/format.h"
#include "options.h"
#include "print.h"
#include "session/bandwidth.h"
#include "session/gpu_survey.h"
#include "session/nodes.h"

namespace kt::app {
namespace {

/// Two layers, one dense and one sparse, with every mechanism of DeepSeek-V3; widths suit K-quants.
constexpr const char* kConfig = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 1024,
  "hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 256, "num_hidden_layers": 2,
  "num_attention_heads": 8, "num_key_value_heads": 8, "n_routed_experts": 16, "n_shared_experts": 1,
  "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
  "moe_layer_freq": 1, "norm_topk_prob": true, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
  "routed_scaling_factor": 2.5, "q_lora_rank": 256, "kv_lora_rank": 256, "qk_nope_head_dim": 64,
  "qk_rope_head_dim": 32, "v_head_dim": 64, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false,
  "bos_token_id": 0, "eos_token_id": 1
})";

/// A folder with config.json that is gone when this is.
class ConfigFolder {
 public:
  ConfigFolder() : path_((std::filesystem::temp_directory_path() / "kt-doctor-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) {
      fail(ErrorCode::kIo, path_, "cannot be created: {}", std::strerror(errno));
    }
    std::ofstream(config_path()) << kConfig;
  }
  ~ConfigFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ConfigFolder(const ConfigFolder&) = delete;
  ConfigFolder& operator=(const ConfigFolder&) = delete;
  std::string config_path() const { return path_ + "/config.json"; }

 private:
  std::string path_;
};

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void say(const std::string& label, const std::string& text) {
  std::fputs(fmt::format("{:<12}{}\n", label, text).c_str(), stdout);
  std::fflush(stdout);
}

// One line per NUMA node, and what kt does with them.
void show_nodes(const Topology& topology, int n_threads) {
  for (const NumaNode& node : topology.nodes) {
    say(fmt::format("Node {}", node.id),
        fmt::format("{} cores, {} in all, {} available", node.cores.size(),
                    format_bytes(static_cast<double>(node.memory_total)),
                    format_bytes(static_cast<double>(node.memory_available))));
  }
  const std::string summary = session::plan_nodes(topology, n_threads, 0).summary;
  say("Weights", summary.empty() ? "not divided: the threads are on one node" : summary);
}

bool multiplies_bf16(CpuCaps caps) {
  return backend::batch_kernels(caps, backend::ActPolicy::kQ16) != backend::BatchKernels::kNone;
}

void show_machine(const Topology& topology, int n_threads) {
  say("CPU", cpu_model_name());
  say("Cores",
      fmt::format(
          "{} physical, {} logical, {} NUMA node{}{}; kt uses {} threads", topology.cores.size(),
          topology.n_logical, topology.nodes.size(), topology.nodes.size() == 1 ? "" : "s",
          topology.cpu_quota > 0.0 ? fmt::format(", limited to {:.2f}", topology.cpu_quota) : "",
          n_threads));
  if (topology.nodes.size() > 1) show_nodes(topology, n_threads);
  const std::string caps = describe_caps(detect_caps());
  say("ISA", caps.empty() ? "none of the fast ones; reference kernels only" : caps);
  if (multiplies_bf16(detect_caps())) {
    const bool tiles = (detect_caps() & kAmx) != 0;
    say("Prompts",
        fmt::format("{} times bf16 activations, from {} tokens a step on",
                    tiles ? "all weights" : "BF16 and FP8 weights", backend::kBatchRows));
  }
  say("Memory", fmt::format("{} in all, {} available",
                            format_bytes(static_cast<double>(topology.memory_total)),
                            format_bytes(static_cast<double>(topology.memory_available))));
  const std::string limit = first_line("/sys/fs/cgroup/memory.max");
  if (limit.empty() || limit == "max") {
    say("cgroup", "no memory limit");
  } else {
    say("cgroup", "memory limited to " + format_bytes(std::strtod(limit.c_str(), nullptr)));
  }
  const std::string huge = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const std::string reserved = first_line("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
  say("Huge pages",
      fmt::format("transparent: {}; reserved 2 MiB pages: {}", huge.empty() ? "unknown" : huge,
                  reserved.empty() ? "0" : reserved));
}

// What the kernel's driver shows, for a kt without its plug-in.
void show_idle_gpus() {
  std::error_code ignored;
  int n = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", ignored)) {
    std::ifstream information(entry.path() / "information");
    std::string line;
    while (std::getline(information, line)) {
      if (line.rfind("Model:", 0) != 0) continue;
      const std::size_t begin = line.find_first_not_of(" \t", 6);
      say("GPU", (begin == std::string::npos ? "unnamed" : line.substr(begin)) +
                     fmt::format(" (not used: kt has no GPU plug-in, {})",
                                 backend::GpuLibrary::kFileName));
      ++n;
    }
  }
  if (n == 0) say("GPU", fmt::format("none: no GPU plug-in ({})", backend::GpuLibrary::kFileName));
}

/// What the checks of one family came to, with an example of each outcome that is not good.
struct Tally {
  std::size_t n = 0, n_agree = 0, n_differ = 0, n_failed = 0, n_absent = 0;
  double largest = 0.0;  // of those that agree
  backend::GpuCheck differs, failed, absent;
  void add(const backend::GpuCheck& check) {
    ++n;
    switch (check.outcome) {
      case backend::GpuCheck::Outcome::kAgrees:
        ++n_agree;
        largest = std::max(largest, check.error);
        break;
      case backend::GpuCheck::Outcome::kDiffers:
        if (n_differ++ == 0 || check.error > differs.error) differs = check;
        break;
      case backend::GpuCheck::Outcome::kFailed:
        if (n_failed++ == 0) failed = check;
        break;
      case backend::GpuCheck::Outcome::kAbsent:
        if (n_absent++ == 0) absent = check;
        break;
    }
  }
};

// A line for each family and outcome. Whether no kernel was wrong.
bool show_checks(const std::vector<backend::GpuCheck>& checks) {
  std::map<std::string, Tally> families;
  for (const backend::GpuCheck& c : checks) families[c.family].add(c);
  bool good = true;
  for (const auto& [family, t] : families) {
    good = good && t.n_differ + t.n_failed == 0;
    if (t.n_agree > 0) {
      say("  Check", fmt::format("{}: {} of {} cases agree with the reference, to {:.1e}", family,
                                 t.n_agree, t.n, t.largest));
    }
    if (t.n_differ > 0) {
      say("  Check", fmt::format("{}: THEY DIFFER from the reference in {} of {} cases, by {:.1e} "
                                 "with {}; report this",
                                 family, t.n_differ, t.n, t.differs.error, t.differs.what));
    }
    if (t.n_failed > 0) {
      say("  Check", fmt::format("{}: {} of {} cases FAILED, the first with {}: {}", family,
                                 t.n_failed, t.n, t.failed.what, t.failed.problem));
    }
    if (t.n_absent > 0) {
      say("  Check", fmt::format("{}: {} of {} cases not tried: {}", family, t.n_absent, t.n,
                                 t.absent.problem));
    }
  }
  return good;
}

// Whether all kernels that were tried agree with their references.
bool show_gpus(const std::string& plugin) {
  const session::GpuSurvey survey = session::survey_gpus(plugin);
  if (survey.plugin.empty() && survey.problem.empty()) {
    show_idle_gpus();
    return true;
  }
  if (!survey.problem.empty()) say("GPU", "none: " + survey.problem);
  bool good = true;
  for (std::size_t i = 0; i < survey.gpus.size(); ++i) {
    const session::SurveyedGpu& gpu = survey.gpus[i];
    const backend::GpuDescription& d = gpu.description;
    say(fmt::format("GPU {}", i),
        fmt::format("{}, compute capability {}.{}, {} multiprocessors, PCI {}, driver for "
                    "CUDA {}.{}",
                    printable(d.name), d.major, d.minor, d.info.n_sms, printable(d.pci_bus),
                    d.driver / 1000, d.driver % 1000 / 10));
    say("  Memory",
        fmt::format("{} in all, {} free", human_bytes(d.total_bytes), human_bytes(gpu.free_bytes)));
    if (!gpu.problem.empty()) say("  Check", gpu.problem);
    good = show_checks(gpu.checks) && good;
    if (gpu.rates.to_device > 0.0) {
      say("  Rates",
          fmt::format("{:.0f} GB/s read, {:.1f} GB/s from pinned memory, {:.1f} GB/s to it",
                      gpu.rates.read / 1e9, gpu.rates.to_device / 1e9, gpu.rates.to_host / 1e9));
    }
  }
  return good;
}

void show_bandwidth(const Topology& topology, int n_threads) {
  constexpr std::uint64_t kLeast = std::uint64_t{64} << 20;
  if (session::cold_bytes(topology) < kLeast) {
    say("DRAM read", "not measured: less than 256 MiB of memory available");
    return;
  }
  std::string text;
  for (const session::BandwidthPoint& point :
       session::measure_read_bandwidth(topology, n_threads)) {
    text += fmt::format("{}{} thread{} {:.1f} GB/s", text.empty() ? "" : ", ", point.n_threads,
                        point.n_threads == 1 ? "" : "s", point.bytes_per_second / 1e9);
  }
  say("DRAM read", text);
}

struct Forward {
  std::vector<float> logits;  // [n_rows, vocab]
  engine::Result result;
};

Forward run_forward(session::Session& session) {
  Forward forward;
  engine::Request request;
  for (std::int32_t i = 0; i < 64; ++i) request.prompt.push_back((i * 37 + 11) % 1024);
  request.sampling.temperature = 0.0f;
  request.ignore_stop_tokens = true;
  request.max_tokens = 33;
  request.on_prompt_logits = [&forward](std::int64_t, std::span<const float> logits) {
    forward.logits.insert(forward.logits.end(), logits.begin(), logits.end());
  };
  forward.result = session.engine().generate(std::move(request));
  return forward;
}

/// Mean over rows of KL(softmax(a) ‖ softmax(b)).
double mean_divergence(const std::vector<float>& a, const std::vector<float>& b,
                       std::size_t vocab) {
  double total = 0.0;
  std::size_t n_rows = 0;
  for (std::size_t row = 0; row + vocab <= a.size(); row += vocab, ++n_rows) {
    double sum_a = 0.0;
    double sum_b = 0.0;
    const float max_a = *std::max_element(a.begin() + static_cast<std::ptrdiff_t>(row),
                                          a.begin() + static_cast<std::ptrdiff_t>(row + vocab));
    const float max_b = *std::max_element(b.begin() + static_cast<std::ptrdiff_t>(row),
                                          b.begin() + static_cast<std::ptrdiff_t>(row + vocab));
    for (std::size_t i = row; i < row + vocab; ++i) {
      sum_a += std::exp(static_cast<double>(a[i] - max_a));
      sum_b += std::exp(static_cast<double>(b[i] - max_b));
    }
    for (std::size_t i = row; i < row + vocab; ++i) {
      const double log_a = static_cast<double>(a[i] - max_a) - std::log(sum_a);
      const double log_b = static_cast<double>(b[i] - max_b) - std::log(sum_b);
      total += std::exp(log_a) * (log_a - log_b);
    }
  }
  return n_rows == 0 ? 0.0 : total / static_cast<double>(n_rows);
}

/// Whether the fast kernels agree with the reference, on weights of this type. Rounding differs
/// between kernels, most where prompts take bf16, and random layers amplify it; a wrong kernel is
/// off by whole nats.
bool check_forward(int n_threads, const char* type, bool bf16) {
  const ConfigFolder folder;
  session::Options options;
  options.gpus = 0;
  options.n_threads = n_threads;
  options.context = 256;
  options.need_text = false;
  const auto fast = session::Session::open_dummy(options, folder.config_path(), type, 0);
  const Forward got = run_forward(*fast);
  options.isa = "ref";
  const auto slow = session::Session::open_dummy(options, folder.config_path(), type, 0);
  const Forward wanted = run_forward(*slow);
  const auto vocab = static_cast<std::size_t>(fast->engine().vocab_size());
  if (got.logits.empty() || got.logits.size() != wanted.logits.size()) {
    say("Forward", "FAILED: no logits came back");
    return false;
  }
  const double divergence = mean_divergence(wanted.logits, got.logits, vocab);
  const double largest = bf16 ? 3e-2 : 1e-3;
  const bool agrees = std::isfinite(divergence) && std::fabs(divergence) <= largest;
  say("Forward",
      fmt::format(
          "two DeepSeek-V3-like layers, {}: prefill {:.0f} tokens/s, decode {:.0f} tokens/s", type,
          64.0 / std::max(got.result.prefill_seconds, 1e-9),
          static_cast<double>(got.result.tokens.size() - 1) /
              std::max(got.result.decode_seconds, 1e-9)));
  say("Check", fmt::format("{} kernels against reference kernels: mean KL {:.1e}, {}",
                           describe_caps(fast->cpu().caps), divergence,
                           agrees ? "they agree" : "THEY DIFFER; use --isa ref and report this"));
  return agrees;
}

int doctor(int n_threads, const std::string& gpu_plugin) {
  const Topology topology = detect_topology();
  if (n_threads == 0) n_threads = default_threads(topology);
  show_machine(topology, n_threads);
  bool agree = show_gpus(gpu_plugin);
  show_bandwidth(topology, n_threads);
  const CpuCaps caps = detect_caps();
  agree = check_forward(n_threads, "Q4_K_M", (caps & kAmx) != 0) && agree;
  if (multiplies_bf16(caps)) agree = check_forward(n_threads, "BF16", true) && agree;
  return agree ? 0 : exit_status(ErrorCode::kInternal);
}

}  // namespace

void add_doctor(CLI::App& root, Action& action) {
  auto n_threads = std::make_shared<int>(0);
  CLI::App* command =
      root.add_subcommand("doctor", "Show this machine, measure it, and test the kernels");
  command->group("Measure");
  command
      ->add_option("-t,--threads", *n_threads,
                   "Threads; 0: the physical cores this process may use")
      ->check(whole_number(0, 1024))
      ->type_name("N")
      ->capture_default_str();
  auto gpu_plugin = std::make_shared<std::string>();
  command
      ->add_option("--gpu-plugin", *gpu_plugin,
                   "GPU plug-in (libkt_cuda.so); looked for beside kt and in ../lib/ktransformers "
                   "when not given")
      ->type_name("FILE");
  command->callback([n_threads, gpu_plugin, &action] {
    action = [n_threads, gpu_plugin] { return doctor(*n_threads, *gpu_plugin); };
  });
}

}  // namespace kt::app
