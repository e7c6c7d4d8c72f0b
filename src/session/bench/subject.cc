#include "session/bench/subject.h"

#include <algorithm>
#include <chrono>

namespace kt::session::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostSamples = 5000;

struct Samples {
  std::vector<double> seconds;
  double weight_bytes = 0.0;  // means
  double operations = 0.0;
};

struct CeilingsNow {
  double read = 0.0;
  double peak = 0.0;
};

// Asks for the ceilings with the weights of one subject, which it walks through in pieces.
class CeilingProbe {
 public:
  CeilingProbe(backend::Cpu& cpu, const Subject& subject, const Sampling& sampling)
      : cpu_(cpu), subject_(subject), sampling_(sampling), memory_(subject.memory()) {}
  const std::vector<Region>& memory() const { return memory_; }

  CeilingsNow ask(double call_seconds) {
    constexpr double kAboutBytesPerSecond = 50e9;
    constexpr std::size_t kLeastBytes = std::size_t{16} << 20;
    constexpr std::size_t kMostBytes = std::size_t{1} << 30;
    constexpr int kPieces = 7;
    const auto piece = std::clamp(static_cast<std::size_t>(call_seconds * kAboutBytesPerSecond),
                                  kLeastBytes, kMostBytes / kPieces);
    double read = 0.0;
    for (const Reading how : kReadings) {
      std::vector<double> reads;
      for (int i = 0; i < kPieces; ++i)
        reads.push_back(read_rate(cpu_.pool, next_piece(piece), how));
      read = std::max(read, summarize(reads).median);
    }
    std::vector<double> peaks;
    for (int i = 0; sampling_.peak_now && i < kPieces; ++i)
      peaks.push_back(sampling_.peak_now(subject_.arithmetic(), call_seconds));
    return {read, summarize(peaks).median};
  }

 private:
  std::vector<Region> next_piece(std::size_t bytes) {
    std::vector<Region> piece;
    std::size_t held = 0;
    for (std::size_t steps = 0; held < bytes && steps <= memory_.size(); ++steps) {
      const Region region = memory_[region_].subspan(offset_);
      const std::size_t part = std::min(region.size(), bytes - held);
      piece.push_back(region.first(part));
      held += part;
      offset_ += part;
      if (offset_ < memory_[region_].size()) continue;
      offset_ = 0;
      region_ = (region_ + 1) % memory_.size();
    }
    return piece;
  }

  backend::Cpu& cpu_;
  const Subject& subject_;
  const Sampling& sampling_;
  std::vector<Region> memory_;
  std::size_t region_ = 0;
  std::size_t offset_ = 0;
};

Samples take(Subject& subject, const Sampling& sampling) {
  const std::chrono::duration<double> warm(sampling.seconds / 4);
  const auto begin = Clock::now();
  do {
    subject.run();
  } while (Clock::now() - begin < warm);
  Samples samples;
  const auto start = Clock::now();
  const std::chrono::duration<double> wanted(sampling.seconds);
  const auto least = static_cast<std::size_t>(sampling.least);
  while (samples.seconds.size() < least ||
         (Clock::now() - start < wanted && samples.seconds.size() < kMostSamples)) {
    const Sample s = subject.run();
    samples.seconds.push_back(s.seconds);
    samples.weight_bytes += s.weight_bytes;
    samples.operations += s.operations;
  }
  const auto n = static_cast<double>(samples.seconds.size());
  samples.weight_bytes /= n;
  samples.operations /= n;
  return samples;
}

// Bits per weight of all layers or matrices.
double bits_per_weight(const Case& what, const Subject& subject,
                       const std::vector<Region>& memory) {
  double bytes = 0.0;
  for (const Region& region : memory) bytes += static_cast<double>(region.size());
  const std::int64_t matrices =
      subject.n_copies() * (subject.n_experts() == 0 ? 1 : 3 * subject.n_experts());
  return 8.0 * bytes / static_cast<double>(matrices * what.shape.d_model * what.shape.d_ff);
}

}  // namespace

Arithmetic arithmetic_of(kernels::dot::Act act, formats::Format weight) {
  switch (act) {
    case kernels::dot::Act::kQ8:
    case kernels::dot::Act::kI8: return Arithmetic::kInt8;
    case kernels::dot::Act::kQ16: return Arithmetic::kInt16;
    case kernels::dot::Act::kBf16: return Arithmetic::kBf16;
    case kernels::dot::Act::kF32: break;
  }
  return weight == formats::Format::kBF16 ? Arithmetic::kBf16 : Arithmetic::kF32;
}

const char* name_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kF32: return "f32";
    case Arithmetic::kBf16: return "bf16";
    case Arithmetic::kInt8: return "int8";
    case Arithmetic::kInt16: return "int16";
  }
  return "";
}

std::vector<Result> measure(backend::Cpu& cpu, const Case& what, Subject& subject,
                            const Sampling& sampling) {
  CeilingProbe probe(cpu, subject, sampling);
  std::vector<Result> results;
  const auto once = [&](std::int64_t m) {
    subject.run();
    const double call = subject.run().seconds;
    const CeilingsNow before = probe.ask(call);
    const Samples samples = take(subject, sampling);
    const CeilingsNow after = probe.ask(call);
    Result r;
    r.name = what.name();
    r.kernel = subject.kernel();
    r.format = what.format.name;
    r.shape = what.shape.name;
    r.d_model = what.shape.d_model;
    r.d_ff = what.shape.d_ff;
    r.n_experts = subject.n_experts();
    r.n_active = r.n_experts == 0 ? 0 : what.shape.n_active;
    r.n_copies = subject.n_copies();
    r.context = what.context;
    r.about = subject.about();
    if (r.context == 0) r.bits_per_weight = bits_per_weight(what, subject, probe.memory());
    r.m = m;
    r.seconds = summarize(samples.seconds);
    r.bytes_per_second = samples.weight_bytes / r.seconds.median;
    r.ops_per_second = samples.operations / r.seconds.median;
    r.read = (before.read + after.read) / 2;
    r.peak = (before.peak + after.peak) / 2;
    r.arithmetic = subject.arithmetic();
    r.note = subject.note();
    return r;
  };
  for (const std::int64_t m : sampling.sizes) {
    subject.prepare(m);
    const double error = subject.error();
    Result r = once(m);
    if (sampling.doubt && sampling.doubt(r)) {
      const Result again = once(m);
      if (again.seconds.median < r.seconds.median) r = again;
      r.repeated = true;
    }
    r.error = error;
    results.push_back(std::move(r));
    const Result& done = results.back();
    if (sampling.progress) {
      sampling.progress(fmt::format("{} m {}: {:.3f} ms", done.name, m, done.seconds.median * 1e3));
    }
  }
  std::vector<double> times;
  for (const Result& r : results) times.push_back(r.seconds.median);
  const std::vector<bool> marks = slower_than_next(times);
  for (std::size_t i = 0; i < results.size(); ++i) results[i].slower_than_next = marks[i];
  return results;
}

}  // namespace kt::session::bench
