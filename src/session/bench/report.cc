#include "session/bench/report.h"

#include <fstream>
#include <sstream>

#include "base/error.h"

namespace kt::session::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;

// The kernel of a MoE layer is not part of the key: another kernel is a change to be seen.
std::string key(const std::string& name, std::int64_t n_experts, std::int64_t m,
                std::int64_t n_threads, const std::string& act) {
  return fmt::format("{}|{}|{}|{}|{}", name, n_experts, m, n_threads, act);
}

Json to_json(const Result& r) {
  Json json = {{"name", r.name},   {"kernel", r.kernel},   {"format", r.format},
               {"shape", r.shape}, {"d_model", r.d_model}, {"d_ff", r.d_ff}};
  if (r.n_experts != 0) {
    json["n_experts"] = r.n_experts;
    json["n_active"] = r.n_active;
  }
  if (r.context != 0) json["context"] = r.context;
  json.update({{"copies", r.n_copies},
               {"bits_per_weight", r.bits_per_weight},
               {"m", r.m},
               {"seconds", r.seconds.median},
               {"seconds_p10", r.seconds.low},
               {"seconds_p90", r.seconds.high},
               {"samples", r.seconds.n},
               {"weight_bytes_per_second", r.bytes_per_second},
               {"read_bytes_per_second", r.read},
               {"ops_per_second", r.ops_per_second},
               {"arithmetic", name_of(r.arithmetic)},
               {"error", r.error},
               {"slower_than_next", r.slower_than_next},
               {"repeated", r.repeated}});
  if (r.read > 0.0) json["share_of_read"] = r.bytes_per_second / r.read;
  if (r.peak > 0.0) {
    json["peak_ops_per_second"] = r.peak;
    json["share_of_peak"] = r.ops_per_second / r.peak;
  }
  if (!r.note.empty()) json["note"] = r.note;
  return json;
}

// A float beyond the range of integers must not be converted.
std::int64_t whole(const nlohmann::json& value, const std::string& path) {
  if (!value.is_number_integer())
    fail(ErrorCode::kBadFile, path, "has a {} that is not whole where a whole number is wanted",
         value.type_name());
  return value.get<std::int64_t>();
}

}  // namespace

Json to_json(const Machine& machine, const Ceilings& ceilings, const std::vector<Result>& results) {
  Json read = Json::array(), peaks = Json::array(), rows = Json::array();
  for (const BandwidthPoint& p : ceilings.read) {
    read.push_back(
        {{"n_threads", p.n_threads}, {"bytes_per_second", p.median}, {"best", p.bytes_per_second}});
  }
  for (const Peak& p : ceilings.peaks) {
    peaks.push_back({{"name", p.kernel->name},
                     {"arithmetic", name_of(p.kernel->arithmetic)},
                     {"ops_per_second", p.rate.median},
                     {"best", p.rate.high}});
  }
  for (const Result& r : results) rows.push_back(to_json(r));
  return {{"version", kVersion},
          {"machine",
           {{"cpu", machine.cpu},
            {"isa", machine.isa},
            {"act", machine.act},
            {"n_threads", machine.n_threads},
            {"cache_bytes", machine.cache_bytes},
            {"memory_bytes", machine.memory_bytes},
            {"huge_pages", machine.huge_pages}}},
          {"ceilings", {{"read", read}, {"peaks", peaks}}},
          {"results", rows}};
}

Baseline Baseline::read(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(ErrorCode::kNotFound, path, "cannot be read; --baseline wants a file of --json");
  std::stringstream text;
  text << file.rdbuf();
  return parse(text.str(), path);
}

Baseline Baseline::parse(const std::string& text, const std::string& path) {
  Baseline baseline;
  try {
    const auto json = nlohmann::json::parse(text);
    const std::int64_t version = whole(json.at("version"), path);
    if (version != kVersion) {
      fail(ErrorCode::kBadFile, path, "is of version {}; this program compares with version {}",
           version, kVersion);
    }
    const auto& machine = json.at("machine");
    const std::int64_t n_threads = whole(machine.at("n_threads"), path);
    const std::string act = machine.at("act");
    for (const auto& r : json.at("results")) {
      const double seconds = r.at("seconds").get<double>();
      if (!(seconds > 0.0)) fail(ErrorCode::kBadFile, path, "has a time that is not above 0");
      const std::int64_t n_experts = r.contains("n_experts") ? whole(r["n_experts"], path) : 0;
      baseline.seconds_[key(r.at("name"), n_experts, whole(r.at("m"), path), n_threads, act)] =
          seconds;
    }
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorCode::kBadFile, path, "is not what --json writes: {}", e.what());
  }
  return baseline;
}

double Baseline::seconds(const Machine& machine, const Result& result) const {
  const auto it =
      seconds_.find(key(result.name, result.n_experts, result.m, machine.n_threads, machine.act));
  return it == seconds_.end() ? 0.0 : it->second;
}

bool Baseline::lost(const Machine& machine, const Result& result) const {
  constexpr double kSlack = 1.10;
  const double then = seconds(machine, result);
  return then > 0.0 && result.seconds.median > kSlack * then;
}

}  // namespace kt::session::bench
