#include "operators/phased.h"

#include "operators/loader.h"
#include "operators/placement.h"

namespace kt::operators {
namespace {

// What both kinds share: Base is Linear or Experts.
template <class Base>
class PhasedOf : public Base, public Phased {
 public:
  template <class... Shape>
  PhasedOf(std::unique_ptr<Base> generate, std::unique_ptr<Base> prefill, bool keep, Shape... shape)
      : Base(generate->site(), shape...),
        generate_(std::move(generate)),
        prefill_(std::move(prefill)),
        keep_(keep),
        active_(generate_.get()) {}

  std::vector<WeightSpec> weights() const override { return generate_->weights(); }
  void check(const io::WeightSource& source) const override {
    generate_->check(source);
    prefill_->check(source);
  }
  Kept kept(const io::WeightSource& source, backend::ActPolicy act) const override {
    return generate_->kept(source, act);
  }
  void load(Loader& loader) override { active_->load(loader); }
  void unload() override { active_->unload(); }
  std::uint64_t weight_bytes() const override { return active_->weight_bytes(); }
  std::string weight_format() const override { return active_->weight_format(); }
  std::string kernel_name() const override { return active_->kernel_name(); }
  bool batches_differ() const override { return active_->batches_differ(); }

  bool hands_on() const override { return true; }
  void enter(Phase phase, Loader& loader) override {
    Base* next = of(phase);
    if (next == active_) return;
    if (phase == Phase::kGenerate || !keep_) active_->unload();
    active_ = next;
    if (phase == Phase::kPrefill || !keep_) active_->load(loader);
  }
  const Module& active() const override { return *active_; }
  const Module& in(Phase phase) const override { return *of(phase); }

 protected:
  Base* of(Phase phase) const {
    return phase == Phase::kPrefill ? prefill_.get() : generate_.get();
  }
  std::unique_ptr<Base> generate_, prefill_;
  bool keep_;
  Base* active_;
};

class PhasedLinear : public PhasedOf<Linear> {
 public:
  using PhasedOf::PhasedOf;
  const backend::PackedMatrix* packed() const override { return active_->packed(); }
  const float* bias() const override { return active_->bias(); }
  GpuProduct gpu_product() const override { return active_->gpu_product(); }

 private:
  void do_run(Step& step, Activation& x, Activation& out) noexcept override {
    active_->run(step, x, out);
  }
};

class PhasedExperts : public PhasedOf<Experts> {
 public:
  using PhasedOf::PhasedOf;
  void collect(Step& step, Ticket& ticket, Activation& accumulate_into) noexcept override {
    active_->collect(step, ticket, accumulate_into);
  }
  bool overwrites() const override { return active_->overwrites(); }
  bool on_cpu() const override { return active_->on_cpu(); }
  std::optional<int> streams_to() const override { return generate_->streams_to(); }
  std::int64_t n_on_gpu() const override { return generate_->n_on_gpu(); }
  bool is_on_gpu(std::int32_t expert) const override { return active_->is_on_gpu(expert); }
  std::vector<std::span<const std::byte>> packed_memory() const override {
    return active_->packed_memory();
  }

 private:
  Ticket do_submit(Step& step, Activation& x, Routing& routing) noexcept override {
    return active_->submit(step, x, routing);
  }
};

}  // namespace

std::unique_ptr<Linear> make_phased(std::unique_ptr<Linear> generate,
                                    std::unique_ptr<Linear> prefill, bool keep) {
  const std::int64_t n_out = generate->n_out(), n_in = generate->n_in();
  return std::make_unique<PhasedLinear>(std::move(generate), std::move(prefill), keep, n_out, n_in);
}

std::unique_ptr<Experts> make_phased(std::unique_ptr<Experts> generate,
                                     std::unique_ptr<Experts> prefill, bool keep) {
  return std::make_unique<PhasedExperts>(std::move(generate), std::move(prefill), keep);
}

void enter_phase(Module& root, Phase phase, Loader& loader) {
  std::vector<std::unique_ptr<backend::Gpu::Aside>> asides;
  if (phase == Phase::kPrefill) asides = loader.asides();
  walk(root, [&](Module& module) {
    if (auto* phased = dynamic_cast<Phased*>(&module)) phased->enter(phase, loader);
  });
}

std::string prefill_kind(Module& root, const io::WeightSource& source, backend::ActPolicy act) {
  std::string kind;
  walk(root, [&](Module& module) {
    const auto* phased = dynamic_cast<const Phased*>(&module);
    if (phased == nullptr) return;
    const Module& prefill = phased->in(Phase::kPrefill);
    kind += fmt::format("{} {} {}", module.path().substr(root.path().size()), prefill.op(),
                        prefill.site().device);
    for (const KeptMatrix& m : prefill.kept(source, act).matrices) {
      kind += fmt::format(" {} {} {} {}", m.count, m.n, m.k, formats::traits(m.format).name);
    }
    kind += '\n';
  });
  return kind;
}

std::size_t prefill_gpu_bytes(Module& root, const io::WeightSource& source,
                              const backend::Gpu& gpu) {
  constexpr std::size_t kAlign = backend::Gpu::kAlignment;
  std::size_t bytes = 0;
  walk(root, [&](Module& module) {
    const auto* phased = dynamic_cast<const Phased*>(&module);
    if (phased == nullptr) return;
    const Module& prefill = phased->in(Phase::kPrefill);
    if (gpu_index(prefill.site().device) != gpu.index()) return;
    const Kept kept = prefill.kept(source, backend::ActPolicy::kQ16);
    bytes += kept.vector_bytes + kAlign;
    for (const KeptMatrix& m : kept.matrices) {
      const std::size_t each = gpu.api().packed_bytes(m.format, m.n, m.k);
      bytes += each * static_cast<std::size_t>(m.count) + kAlign;
    }
  });
  return bytes == 0 ? 0 : bytes + backend::Gpu::kStagingBytes + kAlign;
}

}  // namespace kt::operators
