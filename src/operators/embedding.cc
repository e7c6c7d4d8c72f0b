// KEmbeddingCPU: token rows decoded on demand from the mapped file; nothing is copied at load.
#include "operators/makers.h"
#include "operators/parallel.h"

namespace kt::operators {
namespace {

class CpuEmbedding : public Embedding {
 public:
  CpuEmbedding(const Builder& at, const EmbeddingSpec& spec)
      : Embedding(at.site()), n_(spec.n), dim_(spec.dim) {}

  std::vector<WeightSpec> weights() const override { return {spec()}; }

  void load(Loader& loader) override {
    const io::TensorInfo& info = loader.require(spec());
    if (const auto view = loader.source().map(info)) {
      view_ = *view;
      return;
    }
    copy_ = tensor::Buffer(formats::row_bytes(info.format, dim_) * static_cast<std::size_t>(n_));
    loader.source().read_rows(info, 0, n_, copy_.data());
    view_ = {info.format, info.shape, copy_.data()};
  }

  std::uint64_t weight_bytes() const override { return view_.bytes(); }
  std::string weight_format() const override {
    return std::string(formats::traits(view_.format).name);
  }

 private:
  void do_run(Step& step, Activation& rows) noexcept override {
    const MatrixF out = rows.write();
    const auto decode = formats::traits(view_.format).decode;
    for_rows(step, out.n_rows, dim_, [&](std::int64_t r) {
      decode(view_.row(step.batch.tokens[static_cast<std::size_t>(r)]), out.row(r), dim_);
    });
  }

  WeightSpec spec() const { return {path() + ".weight", {n_, dim_}}; }
  std::int64_t n_;
  std::int64_t dim_;
  tensor::WeightView view_;
  tensor::Buffer copy_;
};

}  // namespace

std::unique_ptr<Embedding> make_embedding(const Builder& at, const EmbeddingSpec& spec) {
  return std::make_unique<CpuEmbedding>(at, spec);
}

}  // namespace kt::operators
