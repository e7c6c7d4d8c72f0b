#include "serve/metrics.h"

#include <fmt/format.h>

namespace kt::serve {
namespace {

std::string quoted_label(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "\"";
}

void single(std::string_view name, std::string_view type, std::string_view help,
            const std::string& labels, double value, std::string& out) {
  out += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n{0}{3} {4}\n", name, help, type,
                     labels.empty() ? labels : "{" + labels + "}", value);
}

void write_page_store(const io::PageStore::Stats& stats, std::string& out) {
  const auto one = [&](const char* name, const char* type, const char* help, std::uint64_t value) {
    single(name, type, help, {}, static_cast<double>(value), out);
  };
  one("kt_cache_disk_bytes", "gauge", "Size of the pages on disk.", stats.bytes);
  one("kt_cache_disk_pages", "gauge", "Pages on disk.", stats.n_pages);
  one("kt_cache_disk_read_total", "counter", "Pages read back.", stats.n_read);
  one("kt_cache_disk_written_total", "counter", "Pages written.", stats.n_written);
  one("kt_cache_disk_dropped_total", "counter", "Pages forgotten as the disk was busy.",
      stats.n_dropped);
  one("kt_cache_disk_failed_total", "counter", "Pages damaged or refused by the disk.",
      stats.n_failed);
}

void write_traces(const TraceSender::Stats& stats, std::string& out) {
  single("kt_trace_spans_sent_total", "counter", "Spans that the collector took.", {},
         static_cast<double>(stats.n_sent), out);
  single("kt_trace_spans_dropped_total", "counter",
         "Spans that it did not take, or that waited too long.", {},
         static_cast<double>(stats.n_dropped), out);
}

}  // namespace

void Histogram::add(double value) {
  std::size_t i = 0;
  while (i < kBounds.size() && value > kBounds[i]) ++i;
  counts_[i].fetch_add(1, std::memory_order_relaxed);
  double sum = sum_.load(std::memory_order_relaxed);
  while (!sum_.compare_exchange_weak(sum, sum + value, std::memory_order_relaxed)) {
  }
}

void Histogram::write(std::string_view name, std::string_view help, const std::string& labels,
                      std::string& out) const {
  out += fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", name, help);
  std::uint64_t n = 0;
  for (std::size_t i = 0; i <= kBounds.size(); ++i) {
    n += counts_[i].load(std::memory_order_relaxed);
    const std::string bound = i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf";
    out += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, n);
  }
  out += fmt::format("{0}_sum{{{1}}} {2}\n{0}_count{{{1}}} {3}\n", name, labels,
                     sum_.load(std::memory_order_relaxed), n);
}

void Metrics::count_request(std::string_view route, std::string_view method, int status) {
  const std::lock_guard lock(mutex_);
  // Clients make up methods; the table must not grow with them.
  std::string_view counted = "other";
  for (const std::string_view known : {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}) {
    if (method == known) counted = known;
  }
  ++requests_[{std::string(route), {std::string(counted), status}}];
}

void Metrics::count_reply(const Usage& usage, const std::vector<Choice>& choices,
                          double seconds_to_first, const Problem* problem) {
  n_prompt_ += static_cast<std::uint64_t>(usage.n_prompt);
  n_cached_ += static_cast<std::uint64_t>(usage.n_cached);
  n_drafted_ += static_cast<std::uint64_t>(usage.n_drafted);
  n_accepted_ += static_cast<std::uint64_t>(usage.n_accepted);
  std::uint64_t n_generated = 0;
  for (const Choice& choice : choices) n_generated += choice.tokens.size();
  n_generated_ += n_generated;
  if (seconds_to_first >= 0) to_first_.add(seconds_to_first);
  if (problem != nullptr) {
    ++(problem->status == 499 ? n_abort_ : n_error_);
    return;
  }
  for (const Choice& choice : choices) ++(choice.finish == Finish::kLength ? n_length_ : n_stop_);
  whole_.add(usage.total_seconds);
  prefill_.add(usage.prefill_seconds);
  decode_.add(usage.decode_seconds);
  if (usage.n_decoded > 0)
    between_.add(usage.decode_seconds / static_cast<double>(usage.n_decoded));
}

std::string Metrics::write(const Others& others) const {
  const session::Worker::Load& load = others.load;
  const std::string labels = fmt::format("model_name={}", quoted_label(others.model));
  std::string out;
  const auto gauge = [&](const char* name, const char* help, double value) {
    single(name, "gauge", help, labels, value, out);
  };
  const auto counter = [&](const char* name, const char* help,
                           const std::atomic<std::uint64_t>& value) {
    single(name, "counter", help, labels, static_cast<double>(value.load()), out);
  };
  gauge("vllm:num_requests_running", "Requests in the batch.", static_cast<double>(load.n_running));
  gauge("vllm:num_requests_waiting", "Requests in the queue.", static_cast<double>(load.n_waiting));
  gauge("vllm:kv_cache_usage_perc", "Share of the cache's pages in use, 0 to 1.", load.cache_used);
  const auto experts = [&](const char* name, const char* help, std::uint64_t value) {
    single(name, "counter", help, labels + ",tier=\"cpu\"", static_cast<double>(value), out);
  };
  experts("kt_expert_rows_total",
          "Rows times the routed experts that each was sent to; gpu: those in the expert cache.",
          load.expert_use.n_rows);
  out +=
      fmt::format("kt_expert_rows_total{{{},tier=\"gpu\"}} {}\n", labels, load.expert_use.n_cached);
  experts("kt_expert_reads_total", "Routed experts whose weights were read in a step and layer.",
          load.expert_use.n_reads);
  counter("vllm:prompt_tokens_total", "Tokens of prompts.", n_prompt_);
  counter("vllm:prefix_cache_hits_total", "Tokens of prompts found in the cache.", n_cached_);
  counter("vllm:generation_tokens_total", "Tokens generated.", n_generated_);
  counter("vllm:spec_decode_num_draft_tokens_total", "Tokens guessed.", n_drafted_);
  counter("vllm:spec_decode_num_accepted_tokens_total", "Guessed tokens that came.", n_accepted_);
  if (others.page_store != nullptr) write_page_store(others.page_store->stats(), out);
  if (others.traces != nullptr) write_traces(others.traces->stats(), out);
  out +=
      "# HELP vllm:request_success_total Replies by how they ended.\n"
      "# TYPE vllm:request_success_total counter\n";
  for (const auto& [reason, value] :
       {std::pair<const char*, const std::atomic<std::uint64_t>&>{"stop", n_stop_},
        {"length", n_length_},
        {"abort", n_abort_},
        {"error", n_error_}}) {
    out += fmt::format("vllm:request_success_total{{{},finished_reason=\"{}\"}} {}\n", labels,
                       reason, value.load());
  }
  to_first_.write("vllm:time_to_first_token_seconds", "Until the first token.", labels, out);
  between_.write("vllm:inter_token_latency_seconds", "Between tokens, mean of a reply.", labels,
                 out);
  whole_.write("vllm:e2e_request_latency_seconds", "Until the last token.", labels, out);
  prefill_.write("vllm:request_prefill_time_seconds", "In prompts.", labels, out);
  decode_.write("vllm:request_decode_time_seconds", "In steps after the first token.", labels, out);
  out +=
      "# HELP kt_http_requests_total Requests by route, method and status.\n"
      "# TYPE kt_http_requests_total counter\n";
  const std::lock_guard lock(mutex_);
  for (const auto& [key, n] : requests_) {
    out +=
        fmt::format("kt_http_requests_total{{handler={},method={},status=\"{}\"}} {}\n",
                    quoted_label(key.first), quoted_label(key.second.first), key.second.second, n);
  }
  return out;
}

}  // namespace kt::serve
