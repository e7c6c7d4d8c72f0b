// A progress bar on standard error: drawn when that is a terminal, silent otherwise, gone when
// finished. Thread rule: update() from one thread at a time.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "session/generate.h"

namespace kt::app {

class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// At most ten redraws per second. `detail` stands behind the bar.
  void update(std::uint64_t done, std::uint64_t total, const std::string& detail);
  /// Clears the line.
  void finish();

 private:
  std::string label_;
  bool enabled_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_{};
};

/// Shows bytes, GB/s and remaining time while `options` is being opened.
std::shared_ptr<Progress> show_loading(session::Options& options);

/// "Ready": what runs where, with which kernels, and what it takes, in one screen.
std::string ready_screen(session::Session& session);

/// Writes the session's trace to `path`, or does nothing when `path` is empty.
void finish_trace(session::Session& session, const std::string& path);

/// "1.2 GiB / 2.8 GiB  1.9 GB/s  ETA 3 s".
std::string transfer_detail(std::uint64_t done, std::uint64_t total, double bytes_per_second);

/// "loaded 2.8 GiB in 1.5 s, 1.98 GB/s", a line: what the file gave and how fast.
std::string load_line(const session::LoadReport& load);

/// Shows the prompt's progress of `request`, from the second call on.
std::shared_ptr<Progress> show_prefill(session::TextRequest& request);

}  // namespace kt::app
