#include "session/generate.h"

#include <algorithm>

#include "text/detokenizer.h"

namespace kt::session {
namespace {

// Passes text on, holding back what may be the beginning of a stop string.
class StopFilter {
 public:
  StopFilter(const std::vector<std::string>& stops, const std::function<bool(std::string_view)>& sink)
      : stops_(stops), sink_(sink) {}

  // False when a stop string is complete or the sink wants no more.
  bool push(std::string_view piece) {
    held_ += piece;
    std::size_t cut = std::string::npos;
    for (const std::string& stop : stops_) cut = std::min(cut, held_.find(stop));
    if (cut != std::string::npos) {
      hit_ = true;
      held_.resize(cut);
      release(held_.size());
      return false;
    }
    return release(held_.size() - longest_partial());
  }
  void flush() { release(held_.size()); }
  bool hit() const { return hit_; }
  std::string take_text() { return std::move(text_); }

 private:
  // Length of the longest end of held_ that begins some stop string.
  std::size_t longest_partial() const {
    std::size_t longest = 0;
    for (const std::string& stop : stops_) {
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
        if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
      }
    }
    return longest;
  }
  bool release(std::size_t n) {
    if (n == 0) return true;
    const std::string part = held_.substr(0, n);
    held_.erase(0, n);
    text_ += part;
    return !sink_ || sink_(part);
  }
  const std::vector<std::string>& stops_;
  const std::function<bool(std::string_view)>& sink_;
  std::string held_;
  std::string text_;
  bool hit_ = false;
};

void check_stops(const std::vector<std::string>& stops) {
  for (const std::string& s : stops) {
    if (s.empty()) fail(ErrorCode::kUsage, "--stop", "an empty stop string would stop at once");
  }
}

}  // namespace

TextResult generate_text(Session& session, const TextRequest& request) {
  KT_CHECK(session.tokenizer() != nullptr);
  check_stops(request.stop);
  const text::Tokenizer& tokenizer = *session.tokenizer();
  engine::Request run;
  run.prompt = tokenizer.encode(request.prompt, request.add_special, request.parse_special);
  if (run.prompt.empty() && tokenizer.bos()) run.prompt.push_back(*tokenizer.bos());
  run.sampling = request.sampling;
  run.max_tokens = request.max_tokens;
  run.stop_tokens = session.stop_tokens();
  run.ignore_stop_tokens = request.ignore_eos;
  run.on_prefill = request.on_prefill;
  StopFilter filter(request.stop, request.on_text);
  text::IncrementalDetokenizer detokenizer(tokenizer, true, false);
  run.on_token = [&](const engine::SampledToken& token) {
    const std::string_view piece = detokenizer.push(token.id);
    return piece.empty() || filter.push(piece);
  };
  TextResult result;
  result.engine = session.engine().generate(std::move(run));
  if (!filter.hit()) {
    const std::string_view rest = detokenizer.flush();
    if (!rest.empty()) filter.push(rest);
    if (!filter.hit()) filter.flush();
  }
  result.hit_stop_string = filter.hit();
  result.text = filter.take_text();
  return result;
}

std::string speed_report(const engine::Result& r) {
  const auto rate = [](double n, double seconds) { return seconds > 0 ? n / seconds : 0.0; };
  const std::int64_t n_prompt = r.n_prompt - r.n_cached;
  const auto n_decoded = static_cast<std::int64_t>(r.tokens.size());
  return fmt::format(
      "prompt eval count:    {} token(s){}\n"
      "prompt eval duration: {:.6f}s\n"
      "prompt eval rate:     {:.2f} tokens/s\n"
      "eval count:           {} token(s)\n"
      "eval duration:        {:.6f}s\n"
      "eval rate:            {:.2f} tokens/s\n",
      n_prompt, r.n_cached > 0 ? fmt::format(" (+ {} cached)", r.n_cached) : std::string(), r.prefill_seconds,
      rate(static_cast<double>(n_prompt), r.prefill_seconds), n_decoded, r.decode_seconds,
      rate(static_cast<double>(n_decoded), r.decode_seconds));
}

}  // namespace kt::session
