#include "session/machine_profile.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/env.h"
#include "base/topology.h"
#include "io/atomic_file.h"
#include "session/bandwidth.h"

namespace kt::session {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;
using placement::KernelPoint;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Least of some runs of f(): other programs only add time.
template <class F>
double least_seconds(int runs, F&& f) {
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    f();
    least = std::min(least, seconds_since(start));
  }
  return least;
}

// Bytes of weights that do not stay in the last cache level between two passes.
std::uint64_t cold_bytes(const Topology& topology) {
  constexpr std::uint64_t kLeast = std::uint64_t{64} << 20;
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;
  constexpr std::uint64_t kUsual = std::uint64_t{32} << 20;
  const std::uint64_t cache = topology.cache_bytes != 0 ? topology.cache_bytes : kUsual;
  return std::min({std::max(kLeast, 2 * cache), kMost, topology.memory_available / 4});
}

std::vector<float> noise(std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  std::uint32_t state = 1;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<std::int32_t>(state >> 8) - (1 << 23)) / (1 << 24);
  }
  return values;
}

struct Products {
  std::vector<KernelPoint> points;
  double pack = 0.0;  // bytes per second
};

Products measure_products(backend::Cpu& cpu, formats::Format format, std::uint64_t bytes) {
  constexpr std::int64_t k = 2048;
  const std::size_t row_bytes = formats::row_bytes(format, k);
  const auto n = static_cast<std::int64_t>(bytes / row_bytes) / 16 * 16;
  const std::vector<float> row = noise(k);
  std::vector<std::byte> rows(row_bytes * 16);
  for (std::size_t r = 0; r < 16; ++r)
    formats::traits(format).encode(row.data(), nullptr, rows.data() + r * row_bytes, k);
  backend::PackedMatrix matrix(cpu, format, n, k);
  matrix.own(tensor::Buffer(matrix.bytes()));
  Products result;
  const auto start = Clock::now();
  cpu.pool.run(n / 16,
               [&](std::int64_t tile, int) { matrix.pack_rows(tile * 16, 16, rows.data()); });
  result.pack = static_cast<double>(n) * static_cast<double>(row_bytes) / seconds_since(start);

  constexpr std::int64_t kRows[] = {1, 2, 4, 8, 16, 64, 128};
  tensor::Arena arena;
  for (const std::int64_t m : kRows) {
    arena.reset();
    // Enough weights to be cold when few rows read them; less when computing takes longer.
    // Several tasks per thread, so that a delayed thread does not decide.
    const std::int64_t least = std::max<std::int64_t>(1024, 256 * cpu.pool.size());
    const std::int64_t part = m <= 4 ? n : std::max(least, n / m / 16 * 16);
    const std::int64_t used = std::min(n, part);
    const std::vector<float> x = noise(m * k);
    backend::Activation input(tensor::ConstMatrixF{x.data(), m, k, k});
    const auto act = input.rows_for(matrix, cpu, arena);
    const tensor::MatrixF out = arena.matrix(m, used);
    constexpr std::int64_t kTask = 64;
    std::int64_t first = 0;  // slices of the buffer in turn, so that each is cold
    const double seconds = least_seconds(m <= 4 ? 5 : 11, [&] {
      const std::int64_t begin = first;
      cpu.pool.run((used + kTask - 1) / kTask, [&](std::int64_t task, int) {
        const std::int64_t at = task * kTask;
        matrix.dot(act, m, begin + at, std::min(kTask, used - at), out.data + at, used);
      });
      first = first + 2 * used <= n ? first + used : 0;
    });
    result.points.push_back(
        {static_cast<double>(m), seconds / (static_cast<double>(used) * static_cast<double>(k))});
  }
  // More rows never take less time; a point above a later one was disturbed.
  for (std::size_t i = result.points.size() - 1; i > 0; --i) {
    result.points[i - 1].seconds = std::min(result.points[i - 1].seconds, result.points[i].seconds);
  }
  return result;
}

// Seconds per multiply-add of one thread.
double measure_attention(backend::Cpu& cpu, const ProfileNeeds& needs, std::int64_t n_rows) {
  constexpr std::int64_t kTokens = 512;
  const std::int64_t dim = needs.dim_qk;
  const std::size_t row = formats::row_bytes(needs.kv_format, dim);
  tensor::Buffer cache(row * kTokens);
  const std::vector<float> values = noise(dim);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    cpu.attention->store(needs.kv_format, values.data(), dim,
                         cache.data() + static_cast<std::size_t>(t) * row);
  }
  std::vector<std::int32_t> pages(kTokens / tensor::kKvPageLen);
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
  const std::vector<float> q = noise(n_rows * dim);
  std::vector<float> out(static_cast<std::size_t>(n_rows * needs.dim_v));
  std::vector<float> scratch(
      static_cast<std::size_t>(kernels::attention::scratch_floats(dim, needs.dim_v)));
  std::vector<float> state(static_cast<std::size_t>(kernels::attention::state_floats(needs.dim_v)));
  tensor::KvStreamView view;
  view.base = cache.data();
  view.format = needs.kv_format;
  view.n_heads = 1;
  view.dim = dim;
  view.head_bytes = view.row_bytes = row;
  kernels::attention::Args args;
  args.q = q.data();
  args.q_token_stride = args.q_head_stride = dim;
  args.n_tokens = 1;
  args.n_heads = n_rows;
  args.position = kTokens - 1;
  args.k = args.v = view;
  args.pages = pages.data();
  args.dim_qk = dim;
  args.dim_v = needs.dim_v;
  args.out = out.data();
  args.out_token_stride = args.out_head_stride = needs.dim_v;
  args.scratch = scratch.data();
  args.state = state.data();
  const kernels::attention::Kernel& kernel = *cpu.attention;
  const double seconds = least_seconds(9, [&] {
    kernel.clear(args);
    kernel.load(args);
    for (std::int64_t key = 0; key < kTokens; key += kernels::attention::kSplitKeys) {
      kernel.add(args, key, kTokens);
    }
    kernel.finish(args);
  });
  return seconds / static_cast<double>(kTokens * n_rows * (dim + needs.dim_v));
}

double measure_region(backend::Cpu& cpu) {
  constexpr int kRuns = 200;
  const double seconds = least_seconds(5, [&] {
    for (int i = 0; i < kRuns; ++i) cpu.pool.run(4 * cpu.pool.size(), [](std::int64_t, int) {});
  });
  return seconds / kRuns;
}

// Quantising rows, which is what most element-wise work of a step is.
double measure_values(backend::Cpu& cpu) {
  constexpr std::int64_t kValues = 4096;
  const std::vector<float> x = noise(kValues);
  tensor::Arena arena;
  const backend::ActMatrix rows(cpu, arena, kernels::dot::Act::kQ8, 1, kValues);
  const double seconds = least_seconds(15, [&] { rows.write(cpu, 0, 0, kValues, x.data()); });
  return seconds / kValues;
}

std::string machine_key(const backend::Cpu& cpu) {
  return fmt::format("{} | {} | {} threads | {} terms{}", cpu_model_name(), describe_caps(cpu.caps),
                     cpu.pool.size(), cpu.act_terms(),
                     cpu.act == backend::ActPolicy::kF32 ? " f32" : "");
}

std::string attention_key(const ProfileNeeds& n, std::int64_t rows) {
  return fmt::format("attention {} {}+{} x{}", formats::traits(n.kv_format).name, n.dim_qk, n.dim_v,
                     rows);
}

constexpr int kVersion = 3;  // of the measurements; others are measured anew

Json read_cache(const std::string& path) {
  std::ifstream file(path);
  const Json json = Json::parse(file, nullptr, false);
  if (!json.is_object() || json.value("version", 0) != kVersion) return {{"version", kVersion}};
  return json;
}

void write_cache(const std::string& path, const Json& json) {
  if (path.empty()) return;
  try {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    io::write_file(path, json.dump(1) + "\n");
  } catch (const std::exception&) {
    return;  // a plan does not fail for want of a cache
  }
}

// A positive number kept under a name, measured when it is missing.
template <class F>
double number(Json& store, const std::string& name, bool* changed, F&& measure) {
  const auto it = store.find(name);
  if (it != store.end() && it->is_number() && it->template get<double>() > 0.0)
    return it->template get<double>();
  const double value = measure();
  store[name] = value;
  *changed = true;
  return value;
}

bool read_points(const Json& store, const std::string& name, Products* products) {
  const auto it = store.find(name);
  if (it == store.end() || !it->is_object()) return false;
  products->pack = it->value("pack", 0.0);
  const auto points = it->find("points");
  if (products->pack <= 0.0 || points == it->end() || !points->is_array()) return false;
  for (const Json& p : *points) {
    if (!p.is_array() || p.size() != 2 || !p[0].is_number() || !p[1].is_number()) return false;
    products->points.push_back({p[0].get<double>(), p[1].get<double>()});
    const std::size_t n = products->points.size();
    if (products->points.back().seconds <= 0.0) return false;
    if (n > 1 && products->points[n - 1].m <= products->points[n - 2].m) return false;
  }
  return !products->points.empty();
}

}  // namespace

std::string profile_path() {
  if (const auto folder = env("XDG_CACHE_HOME")) return *folder + "/ktransformers/profile.json";
  if (const auto home = env("HOME")) return *home + "/.cache/ktransformers/profile.json";
  return {};
}

placement::CpuRates cpu_profile(backend::Cpu& cpu, const std::vector<int>& cores,
                                const ProfileNeeds& needs, bool refresh) {
  const std::string path = profile_path();
  Json cache = read_cache(path);
  Json& store = cache[machine_key(cpu)];
  if (refresh || !store.is_object()) store = Json::object();
  bool changed = false;
  const Topology topology = detect_topology();
  const std::uint64_t cold = cold_bytes(topology);
  placement::CpuRates rates;
  rates.measured = true;
  rates.n_threads = cpu.pool.size();
  rates.read = number(store, "read", &changed, [&] {
    double best = 0.0;
    for (const BandwidthPoint& p : measure_read_bandwidth(cores, cpu.pool.size(), 2 * cold))
      best = std::max(best, p.bytes_per_second);
    return best;
  });
  rates.region = number(store, "region", &changed, [&] { return measure_region(cpu); });
  rates.value = number(store, "value", &changed, [&] { return measure_values(cpu); });
  const auto attention = [&](std::int64_t n_rows) {
    return number(store, attention_key(needs, n_rows), &changed,
                  [&] { return measure_attention(cpu, needs, n_rows); });
  };
  constexpr std::int64_t kBlock = kernels::attention::kMaxRows;
  rates.attend_one = attention(std::clamp<std::int64_t>(needs.heads_per_kv, 1, kBlock));
  rates.attend_many = attention(kBlock);
  for (const formats::Format format : needs.formats) {
    if (formats::traits(format).encode == nullptr) continue;  // the roofline serves
    const std::string name(formats::traits(format).name);
    Products products;
    if (!read_points(store, name, &products)) {
      products = measure_products(cpu, format, cold);
      Json points = Json::array();
      for (const KernelPoint& p : products.points) points.push_back({p.m, p.seconds});
      store[name] = {{"pack", products.pack}, {"points", points}};
      changed = true;
    }
    rates.multiply[format] = products.points;
    rates.pack = rates.pack > 0.0 ? std::min(rates.pack, products.pack) : products.pack;
    rates.flops =
        std::max(rates.flops, 2.0 * products.points.back().m / products.points.back().seconds);
  }
  if (changed) write_cache(path, cache);
  if (rates.flops <= 0.0) rates.flops = rates.read * placement::kCpuFlopsPerByte;
  if (rates.pack <= 0.0) rates.pack = rates.read / 4.0;
  return rates;
}

}  // namespace kt::session
