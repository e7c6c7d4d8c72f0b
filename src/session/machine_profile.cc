#include "session/machine_profile.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/env.h"
#include "base/least_seconds.h"
#include "base/noise.h"
#include "base/topology.h"
#include "io/atomic_file.h"
#include "session/bandwidth.h"
#include "session/product_profile.h"

namespace kt::session {
namespace {

using Json = nlohmann::json;
using placement::KernelPoint;
using placement::ProductRates;

// Bytes of weights to multiply with: more than the caches hold, but made in a short time.
std::uint64_t product_bytes(const Topology& topology) {
  constexpr std::uint64_t kLeast = std::uint64_t{64} << 20;
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;
  constexpr std::uint64_t kUsual = std::uint64_t{32} << 20;
  const std::uint64_t cache = topology.cache_bytes != 0 ? topology.cache_bytes : kUsual;
  return std::min({std::max(kLeast, 4 * cache), kMost, topology.memory_available / 4});
}

// Seconds per multiply-add of one thread.
double measure_attention(const kernels::attention::Kernel& kernel, const ProfileNeeds& needs,
                         std::int64_t n_rows) {
  constexpr std::int64_t kTokens = 512;
  const std::int64_t dim = needs.dim_qk;
  const std::size_t row = formats::row_bytes(needs.kv_format, dim);
  tensor::Buffer cache(row * kTokens);
  const std::vector<float> values = noise(dim);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    formats::traits(needs.kv_format)
        .encode(values.data(), nullptr, cache.data() + static_cast<std::size_t>(t) * row, dim);
  }
  std::vector<std::int32_t> pages(kTokens / tensor::kKvPageLen);
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
  const std::vector<float> q = noise(n_rows * dim);
  std::vector<float> out(static_cast<std::size_t>(n_rows * needs.dim_v));
  tensor::Arena arena;
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
  args.scratch = arena.allocate<float>(kernels::attention::scratch_floats(dim, needs.dim_v));
  args.state = arena.allocate<float>(kernels::attention::state_floats(needs.dim_v));
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
  const backend::ActMatrix rows(cpu, arena, cpu.rounded_form(), 1, kValues);
  const double seconds = least_seconds(15, [&] { rows.write(cpu, 0, 0, kValues, x.data()); });
  return seconds / kValues;
}

std::string machine_key(const backend::Cpu& cpu) {
  constexpr const char* kActs[] = {"q8", "q16", "f32"};  // of ActPolicy
  return fmt::format("{} | {} | {} threads | {}, {} terms", cpu_model_name(),
                     describe_caps(cpu.caps), cpu.pool.size(), kActs[static_cast<int>(cpu.act)],
                     cpu.act_terms());
}

std::string attention_key(const ProfileNeeds& n, std::int64_t rows) {
  return fmt::format("attention {} {}+{} x{}", formats::traits(n.kv_format).name, n.dim_qk, n.dim_v,
                     rows);
}

constexpr int kVersion = 6;  // of the measurements; others are measured anew

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

Json points_json(const std::vector<KernelPoint>& points) {
  Json json = Json::array();
  for (const KernelPoint& p : points) json.push_back({p.m, p.seconds});
  return json;
}

// Points with ascending m and times above 0; nothing when they are otherwise.
std::optional<std::vector<KernelPoint>> read_points(const Json& object, const std::string& name) {
  const auto it = object.find(name);
  if (it == object.end() || !it->is_array()) return std::nullopt;
  std::vector<KernelPoint> points;
  for (const Json& p : *it) {
    if (!p.is_array() || p.size() != 2 || !p[0].is_number() || !p[1].is_number())
      return std::nullopt;
    const KernelPoint point{p[0].get<double>(), p[1].get<double>()};
    if (point.seconds <= 0.0 || (!points.empty() && point.m <= points.back().m))
      return std::nullopt;
    points.push_back(point);
  }
  return points;
}

std::optional<ProductProfile> read_products(const Json& store, const std::string& name) {
  const auto it = store.find(name);
  if (it == store.end() || !it->is_object()) return std::nullopt;
  const auto pack = it->find("pack");
  const auto each = it->find("batch_rows_each");
  auto few = read_points(*it, "few");
  auto batch = read_points(*it, "batch");
  const auto jump = it->find("jump");
  const auto whole = it->find("whole_tiles");
  if (pack == it->end() || !pack->is_number() || pack->get<double>() <= 0.0) return std::nullopt;
  if (jump == it->end() || !jump->is_number() || jump->get<double>() < 0.0) return std::nullopt;
  if (each == it->end() || !each->is_number_integer()) return std::nullopt;
  if (whole == it->end() || !whole->is_boolean()) return std::nullopt;
  const auto rows_each = each->get<std::int64_t>();
  if (!few || few->empty() || !batch || batch->empty() != (rows_each <= 0)) return std::nullopt;
  return ProductProfile{
      {std::move(*few), std::move(*batch), rows_each, whole->get<bool>(), jump->get<double>()},
      pack->get<double>()};
}

Json products_json(const ProductProfile& p) {
  return {{"pack", p.pack},
          {"jump", p.rates.jump},
          {"few", points_json(p.rates.few)},
          {"batch", points_json(p.rates.batch)},
          {"batch_rows_each", p.rates.batch_rows_each},
          {"whole_tiles", p.rates.whole_tiles}};
}

}  // namespace

std::string profile_path() {
  if (const auto folder = env("XDG_CACHE_HOME")) return *folder + "/ktransformers/profile.json";
  if (const auto home = env("HOME")) return *home + "/.cache/ktransformers/profile.json";
  return {};
}

placement::CpuRates cpu_profile(backend::Cpu& cpu, const Topology& topology,
                                const ProfileNeeds& needs, bool refresh) {
  const std::string path = profile_path();
  Json cache = read_cache(path);
  Json& store = cache[machine_key(cpu)];
  if (refresh || !store.is_object()) store = Json::object();
  bool changed = false;
  placement::CpuRates rates;
  rates.measured = true;
  rates.n_threads = cpu.pool.size();
  rates.read = number(store, "read", &changed, [&] {
    double best = 0.0;
    for (const BandwidthPoint& p : measure_read_bandwidth(topology, cpu.pool.size()))
      best = std::max(best, p.bytes_per_second);
    return best;
  });
  rates.region = number(store, "region", &changed, [&] { return measure_region(cpu); });
  rates.value = number(store, "value", &changed, [&] { return measure_values(cpu); });
  const auto attention = [&](const kernels::attention::Kernel& kernel, std::int64_t n_rows) {
    return number(store, attention_key(needs, n_rows), &changed,
                  [&] { return measure_attention(kernel, needs, n_rows); });
  };
  constexpr std::int64_t kBlock = kernels::attention::kMaxRows;
  rates.attend_one =
      attention(*cpu.attention, std::clamp<std::int64_t>(needs.heads_per_kv, 1, kBlock - 1));
  rates.attend_many = attention(cpu.attention_for(kBlock), kBlock);
  for (const auto& [kind, k] : needs.weights) {
    const formats::FormatTraits& traits = formats::traits(kind.format);
    if (traits.encode == nullptr) continue;  // the roofline serves
    const bool by_rows = kind.scales == backend::WeightScales::kOfRows;
    const std::string name = fmt::format("{} x{}{}", traits.name, k, by_rows ? " by rows" : "");
    std::optional<ProductProfile> products = read_products(store, name);
    if (!products) {
      products = measure_products(cpu, kind, k, product_bytes(topology));
      store[name] = products_json(*products);
      changed = true;
    }
    const ProductRates& measured = rates.multiply[kind][k] = std::move(products->rates);
    rates.pack = rates.pack > 0.0 ? std::min(rates.pack, products->pack) : products->pack;
    const KernelPoint& most = (measured.batch.empty() ? measured.few : measured.batch).back();
    rates.flops = std::max(rates.flops, 2.0 * most.m / most.seconds);
  }
  if (changed) write_cache(path, cache);
  if (rates.flops <= 0.0) rates.flops = rates.read * placement::kCpuFlopsPerByte;
  if (rates.pack <= 0.0) rates.pack = rates.read / 4.0;
  return rates;
}

}  // namespace kt::session
