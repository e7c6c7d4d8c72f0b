// Counters of the server, as Prometheus reads them. Names of our own, and those of vLLM where the
// meaning is equal, so that boards made for it show this server.
//
// Thread rule: any thread; counting takes no lock but that of the request table.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "io/page_store.h"
#include "serve/reply.h"
#include "serve/trace_sender.h"
#include "session/worker.h"

namespace kt::serve {

/// Counts of values by upper bounds.
class Histogram {
 public:
  static constexpr std::array<double, 18> kBounds = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640};
  void add(double value);
  void write(std::string_view name, std::string_view help, const std::string& labels,
             std::string& out) const;

 private:
  std::array<std::atomic<std::uint64_t>, kBounds.size() + 1> counts_{};
  std::atomic<double> sum_{0.0};
};

class Metrics {
 public:
  void count_request(std::string_view route, std::string_view method, int status);
  void count_reply(const Usage& usage, const std::vector<Choice>& choices, double seconds_to_first,
                   const Problem* problem);
  /// What others count; the last two may be null.
  struct Others {
    std::string model;
    session::Worker::Load load;  // of the model
    const io::PageStore* page_store = nullptr;
    const TraceSender* traces = nullptr;
  };
  /// The whole text of /metrics.
  std::string write(const Others& others) const;

 private:
  std::atomic<std::uint64_t> n_prompt_{0}, n_cached_{0}, n_generated_{0};
  std::atomic<std::uint64_t> n_drafted_{0}, n_accepted_{0};
  std::atomic<std::uint64_t> n_stop_{0}, n_length_{0}, n_abort_{0}, n_error_{0};
  Histogram to_first_, between_, whole_, prefill_, decode_;
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::pair<std::string, int>>, std::uint64_t> requests_;
};

}  // namespace kt::serve
