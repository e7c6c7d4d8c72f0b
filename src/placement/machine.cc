#include "placement/machine.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "operators/step.h"

namespace kt::placement {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};
constexpr std::array<Unit, 12> kUnits = {{{"", 1.0},
                                          {"b", 1.0},
                                          {"k", 1e3},
                                          {"kb", 1e3},
                                          {"kib", 1024.0},
                                          {"mb", 1e6},
                                          {"mib", 1048576.0},
                                          {"gb", 1e9},
                                          {"gib", 1073741824.0},
                                          {"tb", 1e12},
                                          {"tib", 1099511627776.0},
                                          {"m", 1e6}}};

std::string lower(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != ' ') out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return out;
}

// The number in front and the unit behind it; a negative number when there is none.
std::pair<double, std::string> split_number(std::string_view text) {
  const std::string copy(text.substr(0, 64));
  char* end = nullptr;
  const double value = std::strtod(copy.c_str(), &end);
  if (end == copy.c_str() || !std::isfinite(value) || value <= 0.0) return {-1.0, {}};
  return {value, lower(end)};
}

double byte_unit(std::string_view unit) {
  for (const Unit& u : kUnits) {
    if (u.name == unit) return u.factor;
  }
  return 0.0;
}

std::vector<std::string_view> parts(std::string_view text) {
  std::vector<std::string_view> list;
  while (true) {
    const auto at = text.find('@');
    list.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return list;
    text.remove_prefix(at + 1);
  }
}

// Time per weight at m rows. Fewer rows than the first point read the weights all the same; beyond
// the last, time grows with m.
double interpolate(const std::vector<KernelPoint>& points, double m) {
  if (m <= points.front().m) return points.front().seconds;
  for (std::size_t i = 1; i < points.size(); ++i) {
    if (m > points[i].m) continue;
    const double part = (m - points[i - 1].m) / (points[i].m - points[i - 1].m);
    return points[i - 1].seconds + part * (points[i].seconds - points[i - 1].seconds);
  }
  return points.back().seconds * m / points.back().m;
}

}  // namespace

std::uint64_t parse_bytes(std::string_view text, const std::string& flag) {
  const auto [value, unit] = split_number(text);
  const double bytes = value * byte_unit(unit);
  if (value < 0.0 || bytes < 1.0 || bytes > 1e18) {
    fail(ErrorCode::kUsage, flag, "'{}' is not an amount of memory; 24GiB is one", text);
  }
  return static_cast<std::uint64_t>(bytes);
}

double parse_rate(std::string_view text, const std::string& flag) {
  const auto [value, unit] = split_number(text);
  const std::string name = unit.ends_with("/s") ? unit.substr(0, unit.size() - 2) : unit;
  const double rate = value * byte_unit(name);
  if (value < 0.0 || rate < 1.0 || rate > 1e18) {
    fail(ErrorCode::kUsage, flag, "'{}' is not a rate; 100GB/s is one", text);
  }
  return rate;
}

double parse_flops(std::string_view text, const std::string& flag) {
  auto [value, unit] = split_number(text);
  for (const std::string_view tail : {"/s", "s", "flop", "op"}) {
    if (unit.ends_with(tail)) unit.resize(unit.size() - tail.size());
  }
  const double factor = unit.empty()  ? 1.0
                        : unit == "g" ? 1e9
                        : unit == "t" ? 1e12
                        : unit == "p" ? 1e15
                                      : 0.0;
  const double flops = value * factor;
  if (value < 0.0 || flops < 1.0 || flops > 1e20) {
    fail(ErrorCode::kUsage, flag, "'{}' is not a number of operations per second; 2TFLOPS is one",
         text);
  }
  return flops;
}

Gpu parse_gpu(std::string_view text) {
  const auto list = parts(text);
  if (list.size() < 2 || list.size() > 3) {
    fail(ErrorCode::kUsage, "--gpu",
         "'{}' is not a GPU; 24GiB@1000GB/s is one, or with operations "
         "24GiB@1000GB/s@80TFLOPS",
         text);
  }
  Gpu gpu;
  gpu.bytes = parse_bytes(list[0], "--gpu");
  gpu.bandwidth = parse_rate(list[1], "--gpu");
  gpu.flops = list.size() == 3 ? parse_flops(list[2], "--gpu") : gpu.bandwidth * kGpuFlopsPerByte;
  return gpu;
}

Ram parse_ram(std::string_view text) {
  const auto list = parts(text);
  if (list.size() > 2) {
    fail(ErrorCode::kUsage, "--ram", "'{}' is not memory; 128GiB@100GB/s is, or 128GiB", text);
  }
  Ram ram{parse_bytes(list[0], "--ram"), 0.0};
  if (list.size() == 2) ram.bandwidth = parse_rate(list[1], "--ram");
  return ram;
}

double tile_rows_of_expert(double mean) {
  constexpr double kMany = 500.0;  // exp(-mean) is above the smallest double
  if (mean > kMany) return mean + 16.0;
  double probability = std::exp(-mean), sum = 0.0;
  const double chosen = 1.0 - probability;
  for (std::int64_t n = 1; n < static_cast<std::int64_t>(mean + 10.0 * std::sqrt(mean) + 20.0);
       ++n) {
    probability *= mean / static_cast<double>(n);
    sum += probability * static_cast<double>(backend::batch_tile_rows(n));
  }
  return sum / chosen;
}

double CpuRates::seconds(const ProductWeights& weights, const ProductRows& rows) const {
  if (rows.m <= 0.0 || weights.n <= 0.0) return 0.0;
  const auto widths = multiply.find(weights.kind);
  if (widths == multiply.end()) {
    const formats::FormatTraits& t = formats::traits(weights.kind.format);
    const double bytes = static_cast<double>(t.block_bytes) / static_cast<double>(t.block_len);
    return weights.n * std::max(bytes / read, 2.0 * rows.m / flops);
  }
  const auto wide = widths->second.lower_bound(weights.k);
  const ProductRates& p =
      wide != widths->second.end() ? wide->second : widths->second.rbegin()->second;
  if (backend::takes_batch(p.batch_rows_each, rows.step, rows.each))
    return weights.n * interpolate(p.batch, p.whole_tiles ? rows.tiled : rows.m);
  return weights.n * interpolate(p.few, rows.m) + weights.n_pieces * p.jump / n_threads;
}

CpuRates roofline_rates(double ram_bandwidth, double flops, int n_threads) {
  CpuRates rates;
  rates.n_threads = n_threads;
  rates.read = ram_bandwidth;
  rates.flops = flops;
  // Attention and element-wise work run in floats, at about a quarter of the operation rate.
  rates.attend_one = rates.attend_many = 8.0 * n_threads / flops;
  rates.value = 40.0 * n_threads / flops;
  rates.region = 5e-6;
  rates.pack = ram_bandwidth / 4.0;
  return rates;
}

}  // namespace kt::placement
