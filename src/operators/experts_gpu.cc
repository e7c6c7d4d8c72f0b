// KExpertsGPU, KExpertsTorch, KExpertsMarlin: routed experts whose weights are on a GPU. submit()
// only remembers; collect() computes all of a step's experts and adds them in place, or writes
// them.
#include "operators/expert_stream.h"
#include "operators/gpu_weights.h"
#include "operators/makers.h"
#include "operators/routed_experts.h"
#include "operators/row_ops.h"

namespace kt::operators {
namespace {

class GpuExperts : public RoutedExperts {
 public:
  GpuExperts(const Builder& at, const ExpertsSpec& spec, const Recode& recode)
      : RoutedExperts(at, spec, recode), gpu_(*at.gpu()) {}

  void check(const io::WeightSource& source) const override {
    RoutedExperts::check(source);
    const auto format_of = [&](const WeightSpec& spec) {
      return recode_.target(require_tensor(source, spec).format);
    };
    for (int p = 0; p < 3; ++p) {
      const tensor::Format wanted = format_of(weight(0, p == 2 ? 2 : 0));  // gate's for up too
      for (const WeightSpec& spec : weights_of(p)) {
        const tensor::Format format = format_of(spec);
        if (format == wanted && gpu_has_experts(format)) continue;
        fail(ErrorCode::kUnsupported, path(),
             "GPUs have no kernel for these experts ('{}' in {}): place them on the CPU or "
             "requantise them with KExpertsMarlin",
             spec.name, formats::traits(format).name);
      }
    }
  }

  void load(Loader& loader) override {
    backend::Gpu& gpu = loader.gpu(gpu_);
    if (is_packed(loader)) {
      make_room(gpu);
      return;
    }
    for (int p = 0; p < 3; ++p) of(p) = gpu_matrices(loader, gpu, weights_of(p), recode_);
  }

  void unload() override {
    gate_ = up_ = down_ = {};
    packed_ = nullptr;
  }

  void collect(Step& step, Ticket& ticket, Activation& accumulate_into) noexcept override {
    GpuStep& gpu = step.gpu(gpu_);
    if (packed_ != nullptr) fetch_packed(step);
    const std::size_t mark = gpu.mark();
    ticket.routing.send(step, gpu, accumulate_into.n_rows());
    kernels::cuda::MoeArgs args;
    args.gate = {gate_.first.format, gate_.first.tiles};
    args.up = {up_.first.format, up_.first.tiles};
    args.down = {down_.first.format, down_.first.tiles};
    args.n_experts = n_experts_;
    args.d_model = d_model_;
    args.d_ff = d_ff_;
    args.x = read_bf16(gpu, *ticket.x);
    args.x_stride = d_model_;
    args.m = ticket.x->n_rows();
    args.n_active = ticket.routing.n_active;
    args.ids = ticket.routing.gpu_ids;
    args.weights = ticket.routing.gpu_weights;
    args.y = ticket.overwrite ? accumulate_into.write_on(gpu) : accumulate_into.update_on(gpu);
    args.y_type = accumulate_into.gpu_type();
    args.y_stride = d_model_;
    args.add = !ticket.overwrite;
    args.workspace_bytes = gpu.gpu().api().moe_workspace(args);
    args.workspace = gpu.allocate(args.workspace_bytes);
    gpu.run(path().c_str(), [&](auto& k, auto stream) { return k.moe(args, stream); });
    gpu.release(mark);
  }
  bool overwrites() const override { return true; }

  std::uint64_t weight_bytes() const override { return gate_.bytes + up_.bytes + down_.bytes; }
  std::string weight_format() const override {
    if (gate_.bytes == 0) return {};
    return format_text(gate_.first.format, down_.first.format);
  }
  std::string kernel_name() const override { return "cuda moe"; }

 private:
  Ticket do_submit(Step&, Activation& x, Routing& routing) noexcept override {
    return {std::nullopt, &x, routing};
  }

  std::vector<WeightSpec> weights_of(int projection) const {
    std::vector<WeightSpec> specs;
    for (std::int64_t e = 0; e < n_experts_; ++e) specs.push_back(weight(e, projection));
    return specs;
  }

  // Whether these weights lie packed in host memory, for the CPU's operator of the same module
  // (layer-wise prefill), so that nothing must be read.
  bool is_packed(const Loader& loader) {
    stream_ = loader.expert_stream(gpu_);
    packed_ = stream_ == nullptr || !stream_->streams() ? nullptr : stream_->find(path());
    if (packed_ == nullptr) return false;
    const auto stored = [&](int p) { return require_tensor(loader.source(), weight(0, p)).format; };
    const bool same = !recode_.changes(stored(0)) && packed_->matrices[0].format == stored(0) &&
                      !recode_.changes(stored(2)) && packed_->matrices[2].format == stored(2);
    if (!same) packed_ = nullptr;
    return same;
  }

  void make_room(backend::Gpu& gpu) {
    for (int p = 0; p < 3; ++p) {
      const auto& [format, n, k] = packed_->matrices[static_cast<std::size_t>(p)];
      GpuMatrices& m = of(p);
      m.each = gpu.api().packed_bytes(format, n, k);
      m.bytes = m.each * static_cast<std::size_t>(n_experts_);
      m.first = {format, gpu.allocate_bytes(m.bytes), n, k};
    }
  }

  // With the first step of the phase.
  void fetch_packed(Step& step) noexcept {
    const auto tiles = [](const GpuMatrices& m) {
      return static_cast<std::byte*>(const_cast<void*>(m.first.tiles));
    };
    stream_->relay(step, packed_, {tiles(gate_), tiles(up_), tiles(down_)});
    packed_ = nullptr;
  }

  GpuMatrices& of(int projection) {
    return projection == 0 ? gate_ : projection == 1 ? up_ : down_;
  }

  int gpu_;
  GpuMatrices gate_, up_, down_;
  ExpertStream* stream_ = nullptr;
  ExpertStream::Layer packed_ = nullptr;  // where the weights are to come from yet
};

}  // namespace

std::unique_ptr<Experts> make_gpu_experts(const Builder& at, const ExpertsSpec& spec,
                                          const Recode& recode) {
  return std::make_unique<GpuExperts>(at, spec, recode);
}

}  // namespace kt::operators
