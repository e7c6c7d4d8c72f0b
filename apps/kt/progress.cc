#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/bytes.h"
#include "placement/explain.h"
#include "print.h"
#include "session/trace_file.h"

namespace kt::app {

Progress::Progress(std::string label)
    : label_(std::move(label)), enabled_(::isatty(STDERR_FILENO) != 0) {}

void Progress::update(std::uint64_t done, std::uint64_t total, const std::string& detail) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && done < total && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  drawn_ = true;
  constexpr int kWidth = 24;
  const double share =
      total == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const int filled = static_cast<int>(share * kWidth);
  std::fputs(fmt::format("\r{} [{}{}] {:3.0f} %  {}\x1b[K", label_,
                         std::string(static_cast<std::size_t>(filled), '#'),
                         std::string(static_cast<std::size_t>(kWidth - filled), '.'), share * 100.0,
                         detail)
                 .c_str(),
             stderr);
  std::fflush(stderr);
}

void Progress::finish() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

std::string transfer_detail(std::uint64_t done, std::uint64_t total, double bytes_per_second) {
  std::string text = fmt::format("{} / {}", format_bytes(static_cast<double>(done)),
                                 format_bytes(static_cast<double>(total)));
  if (bytes_per_second > 0.0) {
    text += fmt::format("  {:.2f} GB/s", bytes_per_second / 1e9);
    if (total > done) {
      text += "  ETA " + format_duration(static_cast<double>(total - done) / bytes_per_second);
    }
  }
  return text;
}

std::string load_line(const session::LoadReport& load) {
  const auto bytes = static_cast<double>(load.file_bytes);
  return fmt::format("loaded {} in {:.1f} s, {:.2f} GB/s\n", format_bytes(bytes), load.seconds,
                     bytes / 1e9 / std::max(load.seconds, 1e-9));
}

std::shared_ptr<Progress> show_loading(session::Options& options) {
  auto bar = std::make_shared<Progress>("loading");
  options.on_load = [bar](std::uint64_t done, std::uint64_t total, double rate) {
    bar->update(done, total, transfer_detail(done, total, rate));
  };
  options.on_warning = [](const std::string& text) { std::fputs(text.c_str(), stderr); };
  return bar;
}

std::string ready_screen(session::Session& session) {
  const session::LoadReport& load = session.load_report();
  const engine::EngineOptions& engine = session.engine().options();
  const operators::Devices& devices = session.placement().devices;
  const std::string stand_in =
      devices.emulated && devices.n_gpus > 0
          ? fmt::format("{} GPU{} emulated: the CPU computes what the rules place there\n",
                        devices.n_gpus, devices.n_gpus == 1 ? "" : "s")
          : "";
  const std::string nodes = load.nodes.empty() ? "" : load.nodes + "\n";
  const std::string gpus = load.gpus.empty() ? "" : load.gpus + "\n";
  return placement::explain_summary(session.model()) + stand_in + nodes + gpus + load_line(load) +
         fmt::format("ready: weights {}, cache {} for {} tokens ({}); {} threads, {}\n",
                     human_bytes(load.packed_bytes), human_bytes(load.kv_bytes), engine.context,
                     formats::traits(engine.kv_format).name, session.cpu().pool.size(),
                     describe_caps(session.cpu().caps));
}

void finish_trace(session::Session& session, const std::string& path) {
  if (path.empty()) return;
  session::write_chrome_trace(*session.trace(), path);
  std::fprintf(stderr, "trace: %zu zones in %s\n", session.trace()->zones().size(), path.c_str());
}

std::shared_ptr<Progress> show_prefill(session::TextRequest& request) {
  auto bar = std::make_shared<Progress>("reading the prompt");
  const auto begin = std::chrono::steady_clock::now();
  request.on_prefill = [bar, begin](std::int64_t done, std::int64_t total) {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const double rate = seconds > 0.0 ? static_cast<double>(done) / seconds : 0.0;
    if (done >= total) {
      bar->finish();
      return;
    }
    bar->update(
        static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total),
        fmt::format("{} / {} tokens  {:.1f} tokens/s  ETA {}", done, total, rate,
                    format_duration(static_cast<double>(total - done) / std::max(rate, 1e-9))));
  };
  return bar;
}

}  // namespace kt::app
