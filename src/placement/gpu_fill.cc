#include "placement/gpu_fill.h"

#include <algorithm>
#include <map>

#include "models/model.h"
#include "operators/catalogue.h"
#include "operators/gpu_weights.h"
#include "placement/cost_model.h"
#include "placement/layer_path.h"
#include "placement/planner.h"

namespace kt::placement {
namespace {

using operators::Kept;
using operators::KeptMatrix;

constexpr double kLoss = 1.0;  // bits per weight that may be lost

double bits_per_weight(const Kept& kept, formats::Format KeptMatrix::* which) {
  double bits = 0.0;
  double weights = 0.0;
  for (const KeptMatrix& m : kept.matrices) {
    const formats::FormatTraits& t = formats::traits(m.*which);
    bits +=
        m.weights() * 8.0 * static_cast<double>(t.block_bytes) / static_cast<double>(t.block_len);
    weights += m.weights();
  }
  return weights > 0.0 ? bits / weights : 0.0;
}

// Asks modules of trees where everything is on a GPU: the first tree has the first planned operator
// of each kind, and so on.
class Chooser {
 public:
  Chooser(const io::WeightSource& source, const Packing& packing,
          const std::vector<ModuleCost>& modules)
      : source_(source), packing_(packing), modules_(modules), choices_(modules.size()) {
    placement_.devices = {1, false};
    placement_.default_entry.device = operators::gpu_name(0);
    for (std::size_t i = 0; i < modules.size(); ++i) {
      std::string key = split_layer(modules[i].path).with("#");
      for (const KeptMatrix& m : modules[i].kept.matrices) {
        key += fmt::format("|{} {} {} {}", static_cast<int>(m.stored), m.n, m.k, m.count);
      }
      like_.push_back(first_.emplace(std::move(key), i).first->second);
    }
  }

  std::vector<GpuChoice> run() {
    std::map<std::string_view, std::vector<operators::PlannedRow>> planned;  // by kind
    std::size_t rounds = 1;
    for (const operators::PlannedRow& row : operators::planned_rows()) {
      auto& rows = planned[placement_.catalogue->find(row.name)->kind];
      rows.push_back(row);
      rounds = std::max(rounds, rows.size());
    }
    for (std::size_t round = 0; round < rounds; ++round) {
      placement_.entries.clear();
      std::map<std::string_view, std::size_t> asked;  // path → index
      for (const auto& [key, i] : first_) {
        const auto rows = planned.find(modules_[i].kind);
        const std::size_t n = rows == planned.end() ? 1 : rows->second.size();
        if (modules_[i].part == Part::kEmbedding || round >= n) continue;
        asked.emplace(modules_[i].path, i);
        if (rows == planned.end()) continue;
        auto& entry = placement_.entries[modules_[i].path] = placement_.default_entry;
        entry.op = rows->second[round].name;
        entry.kwargs = rows->second[round].kwargs;
      }
      const auto model = models::build_model(source_.config(), placement_);
      operators::walk(*model, [&](operators::Module& module) {
        const auto it = asked.find(module.path());
        if (it != asked.end()) consider(module, choices_[it->second]);
      });
    }
    for (std::size_t i = 0; i < choices_.size(); ++i) choices_[i] = choices_[like_[i]];
    return std::move(choices_);
  }

 private:
  void consider(const operators::Module& module, GpuChoice& best) const {
    Kept kept;
    try {
      module.check(source_);
      kept = module.kept(source_, packing_.act);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kUnsupported) throw;
      return;
    }
    for (const KeptMatrix& m : kept.matrices) {
      if (module.kind() == "Linear" && !operators::gpu_multiplies(m.format)) return;
      if (module.kind() == "Experts" && !operators::gpu_has_experts(m.format)) return;
    }
    const double lost = std::max(0.0, bits_per_weight(kept, &KeptMatrix::stored) -
                                          bits_per_weight(kept, &KeptMatrix::format));
    const std::uint64_t bytes = bytes_on(kept, false, packing_);
    if (lost > kLoss) return;
    if (best.possible && std::pair(lost, bytes) >= std::pair(best.lost, best.bytes)) return;
    const operators::Placement::Entry& entry = placement_.at(module.path());
    best = {true, entry.op, entry.kwargs, bytes, lost};
  }

  const io::WeightSource& source_;
  const Packing& packing_;
  const std::vector<ModuleCost>& modules_;
  std::vector<GpuChoice> choices_;
  operators::Placement placement_;
  std::map<std::string, std::size_t> first_;  // modules that differ in their layer only
  std::vector<std::size_t> like_;             // of each module: the first like it
};

class Filler {
 public:
  // streams: experts stay on the CPU, as not all fit; copies of them come, or some of each layer.
  Filler(const FillInput& input, bool streams)
      : in_(input),
        caches_(streams && input.caches),
        n_layers_(in_.kv.size()),
        fixed_(n_layers_, 0),
        experts_(n_layers_, 0),
        possible_(n_layers_, true) {
    out_.gpu.assign(in_.modules.size(), -1);
    out_.layer_gpu.assign(n_layers_, -1);
    out_.n_on_gpu.assign(in_.modules.size(), 0);
    for (std::size_t i = 0; i < in_.modules.size(); ++i) {
      const auto layer = static_cast<std::size_t>(in_.modules[i].layer);
      if (in_.modules[i].layer < 0 || layer >= n_layers_) continue;
      const bool experts = in_.modules[i].part == Part::kExperts;
      (experts ? experts_ : fixed_)[layer] += in_.choices[i].bytes;
      if (!experts && !in_.choices[i].possible) possible_[layer] = false;
    }
    const auto n_tokens = static_cast<std::uint64_t>((in_.context + tensor::kKvPageLen - 1) /
                                                     tensor::kKvPageLen * tensor::kKvPageLen);
    for (std::size_t l = 0; l < n_layers_; ++l)
      fixed_[l] += kv_layer_bytes(in_.kv[l], in_.kv_format) * n_tokens;
    for (std::size_t g = 0; g < in_.machine.gpus.size(); ++g) {
      const Gpu& gpu = in_.machine.gpus[g];
      const std::uint64_t reserved =
          gpu_margin(gpu) + in_.workspace + (streams ? in_.stream[g] : 0);
      left_.push_back(gpu.bytes > reserved ? gpu.bytes - reserved : 0);
    }
  }

  Assignment run() {
    take_outer();
    const std::vector<int> wanted = split_layers();
    for (std::size_t l = 0; l < n_layers_; ++l) {
      auto& left = left_[static_cast<std::size_t>(wanted[l])];
      if (!possible_[l] || fixed_[l] > left) continue;
      left -= fixed_[l];
      out_.layer_gpu[l] = wanted[l];
    }
    take_experts();
    if (caches_) take_some_experts();
    for (std::size_t i = 0; i < in_.modules.size(); ++i) {
      const ModuleCost& m = in_.modules[i];
      if (m.layer >= 0 && m.part != Part::kExperts)
        out_.gpu[i] = out_.layer_gpu[static_cast<std::size_t>(m.layer)];
    }
    return std::move(out_);
  }

 private:
  // Final norm and head go with the last layers.
  void take_outer() {
    for (std::size_t i = 0; i < in_.modules.size(); ++i) {
      const ModuleCost& m = in_.modules[i];
      if (m.layer >= 0 || !in_.choices[i].possible || in_.choices[i].bytes > left_.back()) continue;
      left_.back() -= in_.choices[i].bytes;
      out_.gpu[i] = static_cast<int>(left_.size()) - 1;
    }
  }

  // The GPU each layer would go to: runs in proportion to what the GPUs have left. Layers weigh
  // what must be there; their experts too when everything fits.
  std::vector<int> split_layers() const {
    std::uint64_t fixed = 0;
    std::uint64_t all = 0;
    std::uint64_t room = 0;
    for (std::size_t l = 0; l < n_layers_; ++l) {
      fixed += fixed_[l];
      all += fixed_[l] + experts_[l];
    }
    for (const std::uint64_t left : left_) room += left;
    const bool with_experts = all <= room;
    const auto total = static_cast<double>(with_experts ? all : fixed);
    std::vector<int> gpus(n_layers_, 0);
    double done = 0.0;
    for (std::size_t l = 0; l < n_layers_; ++l) {
      const double weight =
          static_cast<double>(fixed_[l]) + (with_experts ? static_cast<double>(experts_[l]) : 0.0);
      const double middle = (done + weight / 2.0) / std::max(total, 1.0);
      double share = 0.0;
      std::size_t g = 0;
      for (; g + 1 < left_.size(); ++g) {
        share += static_cast<double>(left_[g]) / std::max(1.0, static_cast<double>(room));
        if (middle < share) break;
      }
      gpus[l] = static_cast<int>(g);
      done += weight;
    }
    return gpus;
  }

  // Most expected traffic per byte first; equal layers in order.
  void take_experts() {
    struct Candidate {
      std::size_t module;
      double density;
    };
    std::vector<Candidate> candidates;
    for (std::size_t i = 0; i < in_.modules.size(); ++i) {
      const ModuleCost& m = in_.modules[i];
      if (m.part != Part::kExperts || !in_.choices[i].possible) continue;
      if (caches_ && can_stream(m)) continue;
      const double traffic = static_cast<double>(m.bytes) *
                             static_cast<double>(in_.config.moe.n_active) /
                             static_cast<double>(in_.config.moe.n_experts);
      candidates.push_back({i, traffic / static_cast<double>(in_.choices[i].bytes)});
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const auto& a, const auto& b) { return a.density > b.density; });
    for (const Candidate& c : candidates) {
      const auto layer = static_cast<std::size_t>(in_.modules[c.module].layer);
      const int gpu = out_.layer_gpu[layer];
      if (gpu < 0) continue;
      auto& left = left_[static_cast<std::size_t>(gpu)];
      if (in_.choices[c.module].bytes > left) continue;
      left -= in_.choices[c.module].bytes;
      out_.gpu[c.module] = gpu;
    }
  }

  // As many of each layer; one more of the first ones, where there is room.
  void take_some_experts() {
    const std::int64_t n_experts = in_.config.moe.n_experts;
    for (std::size_t g = 0; g < left_.size(); ++g) {
      std::vector<std::size_t> here;
      std::uint64_t one_each = 0;
      const auto one = [&](std::size_t i) {
        return expert_bytes_on_gpu(in_.modules[i], n_experts, 1);
      };
      for (std::size_t i = 0; i < in_.modules.size(); ++i) {
        const ModuleCost& m = in_.modules[i];
        if (m.part != Part::kExperts || !can_stream(m) || m.layer < 0) continue;
        if (out_.layer_gpu[static_cast<std::size_t>(m.layer)] != static_cast<int>(g)) continue;
        here.push_back(i);
        one_each += one(i);
      }
      if (here.empty()) continue;
      const std::int64_t n = std::min(n_experts, static_cast<std::int64_t>(left_[g] / one_each));
      if (n == 0) continue;
      left_[g] -= one_each * static_cast<std::uint64_t>(n);
      for (const std::size_t i : here) {
        const bool more = n < n_experts && one(i) <= left_[g];
        if (more) left_[g] -= one(i);
        out_.n_on_gpu[i] = n + (more ? 1 : 0);
        if (out_.n_on_gpu[i] < n_experts) continue;
        out_.gpu[i] = static_cast<int>(g);
        out_.n_on_gpu[i] = 0;
      }
    }
  }

  const FillInput& in_;
  bool caches_;
  std::size_t n_layers_;
  std::vector<std::uint64_t> fixed_;  // with cache
  std::vector<std::uint64_t> experts_;
  std::vector<bool> possible_;
  std::vector<std::uint64_t> left_;
  Assignment out_;
};

std::string reason_of(const ModuleCost& m, int gpu, std::int64_t n_on_gpu, const FillInput& input,
                      const Assignment& assignment) {
  if (m.part == Part::kEmbedding) return "read a row at a time";
  if (n_on_gpu > 0) {
    return fmt::format(
        "{} of {} on {} too", n_on_gpu, input.config.moe.n_experts,
        operators::gpu_name(assignment.layer_gpu[static_cast<std::size_t>(m.layer)]));
  }
  if (gpu < 0) return m.part == Part::kExperts ? "no room on a GPU" : "layer does not fit its GPU";
  if (m.part == Part::kExperts) return "most traffic per byte";
  return "used by every token";
}

}  // namespace

std::uint64_t gpu_margin(const Gpu& gpu) {
  constexpr std::uint64_t kLeast = std::uint64_t{512} << 20;
  if (gpu.bytes == 0) return 0;  // left out
  return std::max(kLeast, gpu.bytes / 25);
}

std::vector<GpuChoice> gpu_choices(const io::WeightSource& source, const Packing& packing,
                                   const std::vector<ModuleCost>& modules) {
  return Chooser(source, packing, modules).run();
}

// Where all experts fit, none are streamed, and nothing is kept free for it.
Assignment fill_gpus(const FillInput& input) {
  Assignment whole = Filler(input, false).run();
  for (std::size_t i = 0; i < input.modules.size(); ++i) {
    if (input.modules[i].part == Part::kExperts && whole.gpu[i] < 0)
      return Filler(input, true).run();
  }
  return whole;
}

void place_on_gpus(operators::Model& model, const FillInput& input, const Assignment& assignment,
                   operators::Placement& placement) {
  const auto name = [](int gpu) { return gpu < 0 ? std::string("cpu") : operators::gpu_name(gpu); };
  std::map<std::string, std::size_t, std::less<>> index;
  for (std::size_t i = 0; i < input.modules.size(); ++i) index.emplace(input.modules[i].path, i);
  operators::walk(model, [&](operators::Module& module) {
    const auto it = index.find(module.path());
    operators::Placement::Entry entry;
    if (it != index.end()) {
      const int gpu = assignment.gpu[it->second];
      entry.device = name(gpu);
      const std::int64_t n_on_gpu = assignment.n_on_gpu[it->second];
      entry.reason = reason_of(input.modules[it->second], gpu, n_on_gpu, input, assignment);
      if (n_on_gpu > 0) {
        entry.op = input.modules[it->second].op;
        entry.kwargs["gpu_experts"] = n_on_gpu;
      }
      if (gpu >= 0) {
        entry.op = input.choices[it->second].op;
        entry.kwargs = input.choices[it->second].kwargs;
      }
    } else {
      const std::int64_t layer = split_layer(module.path()).number;
      if (layer >= static_cast<std::int64_t>(assignment.layer_gpu.size())) return;
      const int first = assignment.layer_gpu.empty() ? -1 : assignment.layer_gpu.front();
      entry.device =
          name(layer < 0 ? first : assignment.layer_gpu[static_cast<std::size_t>(layer)]);
      entry.reason = "with its layer";
    }
    placement.entries[module.path()] = std::move(entry);
  });
  std::map<std::int64_t, std::string> transfers;
  for (std::size_t l = 1; l < assignment.layer_gpu.size(); ++l) {
    if (assignment.layer_gpu[l] != assignment.layer_gpu[l - 1])
      transfers[static_cast<std::int64_t>(l)] = name(assignment.layer_gpu[l]);
  }
  if (transfers.empty()) return;
  operators::Placement::Entry& model_entry = placement.entries["model"];
  model_entry.op = "KDecoderModel";
  model_entry.kwargs["transfer_map"] = transfers;
}

}  // namespace kt::placement
