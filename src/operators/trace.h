// Records which module ran when: one zone per run() of a module. Kinds open the zones (kinds.h), so
// every operator is traced whatever it does inside.
//
// A zone's time includes the modules below it. Sibling linears that run as one parallel region get
// consecutive parts of its time, by weight bytes. Thread rule: the thread that walks the tree.
#pragma once
#include <chrono>
#include <cstdint>
#include <vector>

namespace kt::operators {

class Module;

class Trace {
 public:
  struct Zone {
    const Module* module = nullptr;
    std::int64_t begin = 0;  // ns since the trace was made
    std::int64_t end = 0;
    std::int64_t n_rows = 0;
  };
  /// Keeps the first `capacity` zones and counts the rest as dropped; nothing is allocated later.
  explicit Trace(std::size_t capacity) { zones_.reserve(capacity); }
  std::int64_t now() const noexcept {
    const auto t = std::chrono::steady_clock::now() - start_;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(t).count();
  }
  void add(const Zone& zone) noexcept {
    if (zones_.size() == zones_.capacity()) {
      ++n_dropped_;
      return;
    }
    zones_.push_back(zone);
  }
  /// In order of their ends: children before parents.
  const std::vector<Zone>& zones() const { return zones_; }
  std::int64_t n_dropped() const { return n_dropped_; }
  void clear() noexcept {
    zones_.clear();
    n_dropped_ = 0;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::vector<Zone> zones_;
  std::int64_t n_dropped_ = 0;
};

/// Adds the zone of `module` when it goes out of scope; does nothing when `trace` is null.
class ZoneScope {
 public:
  ZoneScope(Trace* trace, const Module& module, std::int64_t n_rows) noexcept
      : trace_(trace), zone_{&module, trace != nullptr ? trace->now() : 0, 0, n_rows} {}
  ~ZoneScope() {
    if (trace_ == nullptr) return;
    zone_.end = trace_->now();
    trace_->add(zone_);
  }
  ZoneScope(const ZoneScope&) = delete;
  ZoneScope& operator=(const ZoneScope&) = delete;

 private:
  Trace* trace_;
  Trace::Zone zone_;
};

}  // namespace kt::operators
