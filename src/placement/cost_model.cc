#include "placement/cost_model.h"

#include <algorithm>
#include <cmath>

#include "operators/attend.h"

namespace kt::placement {
namespace {

constexpr double kHandOff = 20e-6;  // seconds until the other device sees what was written

// -1 for the CPU and for GPUs that it stands in for.
int real_gpu(std::optional<int> index, const Machine& machine) {
  return index && *index < static_cast<int>(machine.gpus.size()) ? *index : -1;
}

class StepTimer {
 public:
  StepTimer(const CostInput& input, const StepShape& shape)
      : in_(input), rows_(static_cast<double>(shape.rows)), position_(shape.position) {}

  StepTime run() {
    std::string at = "cpu";
    std::int64_t layer = -1;
    for (const ModuleCost& m : in_.modules) {
      if (m.layer != layer) {
        finish_layer();
        layer = m.layer;
        if (layer >= 0) attend(static_cast<std::size_t>(layer));
      }
      const std::string& device = m.device;
      if (m.kind != "Embedding" && device != at) hand_off();
      if (m.kind != "Embedding") at = device;
      module(m);
    }
    finish_layer();
    return time_;
  }

 private:
  void add(Resource resource, double seconds) {
    time_.seconds += seconds;
    time_.by_resource[static_cast<std::size_t>(resource)] += seconds;
  }

  void finish_layer() {
    const double hidden = std::min(cpu_experts_, gpu_beside_);
    time_.seconds -= hidden;
    cpu_experts_ = gpu_beside_ = 0.0;
  }

  void hand_off() {
    const double bytes = rows_ * static_cast<double>(in_.config.d_model) * 4.0;
    add(Resource::kLink, bytes / (kUsable * in_.machine.link) + kHandOff);
  }

  // Element-wise work: single rows are done by one thread.
  void values(double per_row, bool parallel) {
    const double threads = rows_ > 1.0 || parallel ? in_.machine.cpu.n_threads : 1.0;
    add(Resource::kCpuOverhead, rows_ * per_row * in_.machine.cpu.value / threads);
  }
  void regions(double n) { add(Resource::kCpuOverhead, n * in_.machine.cpu.region); }

  void module(const ModuleCost& m) {
    const int gpu = real_gpu(operators::gpu_index(m.device), in_.machine);
    double share = 1.0;  // of the weights that are touched
    ProductRows rows = same_rows(m.part == Part::kHead ? 1 : n_rows());
    if (m.kind == "Experts") {
      const auto& moe = in_.config.moe;
      const double touched = touched_experts(moe.n_experts, moe.n_active, rows_);
      share = touched / static_cast<double>(moe.n_experts);
      rows.m = rows_ * static_cast<double>(moe.n_active) / touched;
      rows.each = n_rows() * moe.n_active / moe.n_experts;
      rows.tiled = tile_rows_of_expert(rows_ * static_cast<double>(moe.n_active) /
                                       static_cast<double>(moe.n_experts));
    }
    if (m.kind == "Embedding") {
      values(static_cast<double>(in_.config.d_model), false);
    } else if (gpu >= 0) {
      gpu_products(m, static_cast<std::size_t>(gpu), share, rows.m);
    } else {
      const double here = static_cast<double>(m.n_on_gpu) /
                          static_cast<double>(std::max<std::int64_t>(1, in_.config.moe.n_experts));
      if (!stream(m, share * (1.0 - here), rows)) cpu_products(m, share * (1.0 - here), rows);
      cpu_rest(m);
      if (m.n_on_gpu > 0 && m.streams_to)
        gpu_products(m, static_cast<std::size_t>(*m.streams_to), share * here, rows.m);
    }
  }

  std::int64_t n_rows() const { return static_cast<std::int64_t>(rows_); }

  static ProductRows same_rows(std::int64_t n) {
    return {static_cast<double>(n), n, n, static_cast<double>(backend::batch_tile_rows(n))};
  }

  double cpu_seconds(const operators::KeptMatrix& w, double share, const ProductRows& rows) const {
    const double pieces =
        w.piece_rows == 0
            ? 0.0
            : static_cast<double>(w.count * ((w.n + w.piece_rows - 1) / w.piece_rows));
    return in_.machine.cpu.seconds({{w.format, w.scales}, w.k, w.weights() * share, pieces * share},
                                   rows);
  }

  // Whether experts of the CPU go to the GPU in this step: where the link is faster, or always.
  bool stream(const ModuleCost& m, double share, const ProductRows& rows) {
    using operators::StreamExperts;
    if (m.streams == StreamExperts::kOff || n_rows() < backend::kBatchRows) return false;
    const double sent = static_cast<double>(m.bytes) * share / (kUsable * in_.machine.link);
    double here = 0.0;
    for (const operators::KeptMatrix& w : m.kept.matrices) here += cpu_seconds(w, share, rows);
    if (m.streams == StreamExperts::kAuto && here <= sent) return false;
    add(Resource::kLink, sent);
    cpu_experts_ += sent;  // the GPU goes on meanwhile
    return true;
  }

  void cpu_products(const ModuleCost& m, double share, const ProductRows& rows) {
    const CpuRates& cpu = in_.machine.cpu;
    for (const operators::KeptMatrix& w : m.kept.matrices) {
      const double weights = w.weights() * share;
      const double seconds = cpu_seconds(w, share, rows);
      const formats::FormatTraits& t = formats::traits(w.format);
      const double read = weights * static_cast<double>(t.block_bytes) /
                          static_cast<double>(t.block_len) / cpu.read;
      add(seconds < 1.5 * read ? Resource::kRamBandwidth : Resource::kCpuCompute, seconds);
      if (m.kind == "Experts") cpu_experts_ += seconds;
    }
  }

  // Parallel regions and element-wise work around the products.
  void cpu_rest(const ModuleCost& m) {
    const io::ModelConfig& c = in_.config;
    const auto d = static_cast<double>(c.d_model);
    const bool many = rows_ > 1.0;
    if (m.kind == "Linear") {
      const auto k = static_cast<double>(m.kept.matrices.front().k);
      const auto n = static_cast<double>(m.kept.matrices.front().n);
      const bool merged = m.path.ends_with(".k_proj") || m.path.ends_with(".v_proj") ||
                          m.path.ends_with(".up_proj") || m.path.ends_with(".kv_a_proj_with_mqa");
      if (!merged) {
        values(k, false);
        regions(many ? 2.0 : 1.0);
      }
      if (m.path.ends_with(".up_proj")) values(n, false);
    } else if (m.kind == "Norm") {
      values(2.0 * d, false);
      if (many) regions(1.0);
    } else if (m.kind == "Gate") {
      const auto e = static_cast<double>(c.moe.n_experts);
      values(e * (4.0 + static_cast<double>(c.moe.n_active) / 4.0), false);
      regions(many ? 2.0 : 1.0);
    } else if (m.kind == "Experts") {
      const auto active = static_cast<double>(c.moe.n_active);
      values(active * (2.0 * static_cast<double>(c.moe.d_ff) + d + (many ? d / 2.0 : 0.0)), true);
      values(2.0 * d, false);
      regions(many ? 4.0 : 2.0);
    } else if (m.kind == "Attention") {
      regions(2.0);
      values(static_cast<double>(c.n_heads * c.mla.kv_lora_rank), true);
    }
  }

  void gpu_products(const ModuleCost& m, std::size_t gpu, double share, double rows) {
    const Gpu& g = in_.machine.gpus[gpu];
    double weights = 0.0;
    for (const operators::KeptMatrix& w : m.kept.matrices) weights += w.weights() * share;
    const double read = static_cast<double>(m.bytes) * share / (kUsable * g.bandwidth);
    const double compute = 2.0 * weights * rows / (kUsable * g.flops);
    add(read >= compute ? Resource::kGpuBandwidth : Resource::kGpuCompute, std::max(read, compute));
    if (m.part == Part::kShared || m.n_on_gpu > 0) gpu_beside_ += std::max(read, compute);
  }

  void attend(std::size_t layer) {
    if (layer >= in_.kv.size()) return;
    const io::ModelConfig& c = in_.config;
    const bool latent = c.mla.kv_lora_rank > 0;
    const std::int64_t dim_v = latent ? c.mla.kv_lora_rank : c.head_dim;
    const std::int64_t dim_qk = latent ? dim_v + c.mla.qk_rope_dim : dim_v;
    const double seen = static_cast<double>(position_) + (rows_ + 1.0) / 2.0;  // by the average row
    const double bytes = static_cast<double>(kv_layer_bytes(in_.kv[layer], in_.kv_format)) *
                         (static_cast<double>(position_) + rows_);
    const double macs =
        rows_ * seen * static_cast<double>(c.n_heads) * static_cast<double>(dim_qk + dim_v);
    const int gpu = real_gpu(in_.kv[layer].gpu, in_.machine);
    if (gpu >= 0) {
      const Gpu& g = in_.machine.gpus[static_cast<std::size_t>(gpu)];
      const double read = bytes / (kUsable * g.bandwidth);
      const double compute = 2.0 * macs / (kUsable * g.flops);
      add(read >= compute ? Resource::kGpuBandwidth : Resource::kGpuCompute,
          std::max(read, compute));
      return;
    }
    const CpuRates& cpu = in_.machine.cpu;
    // What can be divided at most: a few query heads, and a split of keys.
    const std::int64_t kv_heads = latent ? 1 : c.n_kv_heads;
    const std::int64_t group = c.n_heads / std::max<std::int64_t>(1, kv_heads);
    const double n_tasks = rows_ *
                           static_cast<double>(kv_heads * ((group + operators::kFewestHeads - 1) /
                                                           operators::kFewestHeads)) *
                           std::ceil(seen / static_cast<double>(kernels::attention::kSplitKeys));
    const double threads = std::min(n_tasks, static_cast<double>(cpu.n_threads));
    const double compute = macs * (rows_ > 1.0 ? cpu.attend_many : cpu.attend_one) / threads;
    const double read = bytes / cpu.read;
    add(read > compute ? Resource::kRamBandwidth : Resource::kCpuCompute, std::max(read, compute));
    regions(2.0);
    // Rotary, cache stores and per-head norms.
    values(static_cast<double>(latent ? 2 * c.n_heads * c.mla.qk_rope_dim + dim_qk
                                      : 2 * (c.n_heads + 2 * c.n_kv_heads) * c.head_dim),
           false);
  }

  const CostInput& in_;
  double rows_;
  std::int64_t position_;
  StepTime time_;
  double cpu_experts_ = 0.0;
  double gpu_beside_ = 0.0;
};

}  // namespace

std::string_view resource_name(Resource resource) {
  constexpr std::string_view kNames[kResources] = {"memory bandwidth", "CPU compute",
                                                   "CPU overhead",     "GPU bandwidth",
                                                   "GPU compute",      "GPU link"};
  return kNames[static_cast<int>(resource)];
}

Resource StepTime::limit() const {
  const auto most = std::max_element(by_resource.begin(), by_resource.end());
  return static_cast<Resource>(most - by_resource.begin());
}

std::uint64_t kv_layer_bytes(const tensor::KvLayerSpec& spec, formats::Format format) {
  std::uint64_t bytes = 0;
  for (const tensor::KvStreamSpec& s : spec.streams) {
    bytes += formats::row_bytes(format, s.dim) * static_cast<std::uint64_t>(s.n_heads);
  }
  return bytes;
}

double touched_experts(std::int64_t n_experts, std::int64_t n_active, double n) {
  const auto e = static_cast<double>(n_experts);
  return e * (1.0 - std::pow(1.0 - static_cast<double>(n_active) / e, n));
}

StepTime step_time(const CostInput& input, const StepShape& shape) {
  return StepTimer(input, shape).run();
}

}  // namespace kt::placement
