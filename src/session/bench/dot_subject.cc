// One kernel row on copies of a packed matrix [d_ff, d_model], all threads sharing the rows.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "session/bench/layer_source.h"
#include "session/bench/subject.h"

namespace kt::session::bench {
namespace {

namespace dot = kernels::dot;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kRowsPerTask = 64;
// Activation rows per call, as the experts take them.
constexpr std::int64_t kPanel = 64;
constexpr std::int64_t kTilePanel = 256;
constexpr std::size_t kBytesPerCall = 16u << 20;  // of weights, when m is small

class DotSubject : public Subject {
 public:
  DotSubject(backend::Cpu& cpu, const Case& what, const Limits& limits)
      : cpu_(cpu), kernel_(*what.kernel), n_(what.shape.d_ff), k_(what.shape.d_model) {
    bytes_ = dot::packed_bytes(kernel_, n_, k_);
    check_memory(what, limits);
    const LayerShape one{what.shape.name, k_, k_, 1, 1};
    const LayerSource source(cpu.pool, one, what.format, 1);
    const io::TensorInfo& info = source.tensors().front();
    std::vector<std::byte> rows(formats::row_bytes(kernel_.weight, k_) *
                                static_cast<std::size_t>(n_));
    for (std::int64_t r = 0; r < n_; ++r) {
      source.read_rows(
          info, r % k_, 1,
          rows.data() + static_cast<std::size_t>(r) * rows.size() / static_cast<std::size_t>(n_));
    }
    if (kernel_.act == dot::Act::kI8) share_scales(rows);
    const std::uint64_t wanted = std::min(4 * limits.cache_bytes, limits.memory);
    copies_ = static_cast<std::int64_t>(std::max<std::uint64_t>(1, (wanted + bytes_ - 1) / bytes_));
    weights_ = tensor::Buffer(bytes_ * static_cast<std::size_t>(copies_));
    dot::pack(kernel_, rows.data(), n_, k_, weights_.data());
    if (kernel_.act == dot::Act::kBf16) {
      exponents_.resize(static_cast<std::size_t>(whole_tiles(n_)));
      dot::row_exponents(kernel_, rows.data(), n_, k_, exponents_.data());
    }
    cpu.pool.run(copies_ - 1,
                 [&](std::int64_t i, int) { std::memcpy(matrix(i + 1), weights_.data(), bytes_); });
    if (4 * limits.cache_bytes > limits.memory)
      note_ = "weights are less than 4 times the last cache level";
  }

  void prepare(std::int64_t m) override {
    m_ = m;
    x_ = gaussian(m * k_, 3);
    arena_.reset();
    act_ = {};
    act_.f32 = x_.data();
    act_.f32_stride = k_;
    if (kernel_.act == dot::Act::kQ8) quantize();
    if (kernel_.act == dot::Act::kI8) round_rows();
    if (kernel_.act == dot::Act::kQ16 || kernel_.act == dot::Act::kBf16) {
      const backend::ActMatrix rows(cpu_, arena_, kernel_.act, m, k_);
      for (std::int64_t i = 0; i < m; ++i) rows.write(cpu_, i, 0, k_, x_.data() + i * k_);
      act_ = rows.view();
    }
    per_call_ =
        std::clamp<std::int64_t>(static_cast<std::int64_t>(kBytesPerCall / bytes_) / m, 1, copies_);
    out_.resize(static_cast<std::size_t>(per_call_ * m * n_));
  }

  Sample run() noexcept override {
    const std::int64_t tasks = (n_ + kRowsPerTask - 1) / kRowsPerTask;
    const std::int64_t first = next_;
    next_ = (next_ + per_call_) % copies_;
    const auto start = Clock::now();
    cpu_.pool.run(per_call_ * tasks, [&](std::int64_t task, int) {
      const std::int64_t at = task / tasks;
      const std::int64_t row = task % tasks * kRowsPerTask;
      multiply(matrix((first + at) % copies_), row, out_.data() + at * m_ * n_);
    });
    Sample s;
    s.seconds = std::chrono::duration<double>(Clock::now() - start).count() /
                static_cast<double>(per_call_);
    s.weight_bytes = static_cast<double>(bytes_);
    s.operations = 2.0 * static_cast<double>(m_) * static_cast<double>(n_ * k_);
    return s;
  }

  double error() override {
    std::fill(out_.begin(), out_.end(), 0.0f);
    run();
    double difference = 0.0, norm = 0.0;
    std::vector<float> w(static_cast<std::size_t>(k_));
    for (std::int64_t r = 0; r < n_; r += std::max<std::int64_t>(1, n_ / 61)) {
      dot::unpack_row(kernel_, weights_.data(), r, k_, w.data());
      for (const std::int64_t i : {std::int64_t{0}, m_ / 2, m_ - 1}) {
        double want = 0.0;
        for (std::int64_t c = 0; c < k_; ++c) {
          want += static_cast<double>(w[static_cast<std::size_t>(c)]) *
                  static_cast<double>(x_[static_cast<std::size_t>(i * k_ + c)]);
        }
        const double d = want - static_cast<double>(out_[static_cast<std::size_t>(i * n_ + r)]);
        difference += d * d;
        norm += want * want;
      }
    }
    return std::sqrt(difference / norm);
  }

  std::vector<Region> memory() const override { return {{weights_.data(), weights_.size()}}; }
  Arithmetic arithmetic() const override { return arithmetic_of(kernel_.act, kernel_.weight); }
  std::string kernel() const override { return kernel_.name; }
  std::int64_t n_copies() const override { return copies_; }
  std::string note() const override { return note_; }

 private:
  // Weights as in a file and packed, inputs in two forms, outputs.
  void check_memory(const Case& what, const Limits& limits) const {
    const double needed =
        2.0 * static_cast<double>(bytes_) +
        static_cast<double>(limits.largest) * static_cast<double>(8 * k_ + 4 * n_);
    if (needed <= static_cast<double>(limits.memory)) return;
    fail(ErrorCode::kNoMemory, what.name(),
         "takes {:.1f} GiB and there is room for {:.1f}; name another shape, or a smaller --m",
         needed / (1 << 30), static_cast<double>(limits.memory) / (1 << 30));
  }

  std::int64_t whole_tiles(std::int64_t rows) const {
    return (rows + kernel_.n_tile - 1) / kernel_.n_tile * kernel_.n_tile;
  }

  std::byte* matrix(std::int64_t copy) const {
    return weights_.data() + static_cast<std::size_t>(copy) * bytes_;
  }

  // One int8 row per row, whatever the policy of the CPU.
  void quantize() {
    const std::int64_t blocks = k_ / dot::kQ8Block;
    auto* q = arena_.allocate<std::int8_t>(m_ * k_);
    auto* scale = arena_.allocate<float>(m_ * blocks);
    auto* sum = arena_.allocate<float>(m_ * blocks);
    for (std::int64_t i = 0; i < m_; ++i)
      cpu_.quantize(x_.data() + i * k_, k_, q + i * k_, scale + i * blocks, sum + i * blocks);
    act_.q = q;
    act_.q_stride = k_;
    act_.scale = scale;
    act_.sum = sum;
    act_.block_stride = blocks;
  }

  void round_rows() {
    const std::int64_t panels = (m_ + dot::kTileRows - 1) / dot::kTileRows;
    auto* tiles = arena_.allocate<std::int8_t>(panels * dot::kTileRows * k_);
    auto* scale = arena_.allocate<float>(m_);
    for (std::int64_t i = 0; i < m_; ++i) {
      const std::int64_t first = i / dot::kTileRows * dot::kTileRows * k_;
      cpu_.to_i8_tiles(x_.data() + i * k_, k_,
                       tiles + first + i % dot::kTileRows * dot::kI8TileCols, scale + i);
    }
    act_.i8 = tiles;
    act_.i8_scale = scale;
  }

  // Weights again, with one scale for all blocks of a row.
  void share_scales(std::vector<std::byte>& rows) const {
    const operators::Recode recode = {operators::Recode::Kind::kGroup,
                                      kernel_.weight == formats::Format::kQ8_0 ? 8 : 4, -1};
    const std::size_t row_bytes = formats::row_bytes(kernel_.weight, k_);
    std::vector<float> x(static_cast<std::size_t>(k_));
    for (std::size_t at = 0; at < rows.size(); at += row_bytes) {
      formats::traits(kernel_.weight).decode(rows.data() + at, x.data(), k_);
      operators::encode_group(x.data(), k_, recode, rows.data() + at);
    }
  }

  void multiply(const std::byte* weights, std::int64_t row, float* out) const noexcept {
    dot::DotArgs args;
    args.k = k_;
    args.weights = weights + static_cast<std::size_t>(row / kernel_.n_tile) *
                                 dot::packed_bytes(kernel_, kernel_.n_tile, k_);
    args.n = std::min(kRowsPerTask, n_ - row);
    args.far = backend::asks_far_ahead(cpu_.caps);
    if (!exponents_.empty()) args.exponents = exponents_.data() + row;
    args.out_stride = n_;
    const std::int64_t panel = dot::is_tiles(kernel_.act) ? kTilePanel : kPanel;
    for (std::int64_t i = 0; i < m_; i += panel) {
      args.act = backend::offset_rows(act_, i, k_);
      args.m = std::min(panel, m_ - i);
      args.out = out + i * n_ + row;
      kernel_.run(args);
    }
  }

  backend::Cpu& cpu_;
  const dot::Kernel& kernel_;
  std::int64_t n_;
  std::int64_t k_;
  std::size_t bytes_ = 0;
  std::int64_t copies_ = 1;
  tensor::Buffer weights_;
  tensor::Arena arena_;
  std::int64_t m_ = 1;
  std::int64_t per_call_ = 1;
  std::int64_t next_ = 0;
  std::vector<float> x_, out_;
  std::vector<std::int8_t> exponents_;
  dot::ActRows act_;
  std::string note_;
};

}  // namespace

std::unique_ptr<Subject> make_dot_subject(backend::Cpu& cpu, const Case& what,
                                          const Limits& limits) {
  return std::make_unique<DotSubject>(cpu, what, limits);
}

}  // namespace kt::session::bench
