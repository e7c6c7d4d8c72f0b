#include "session/generate.h"

#include "session/stop_filter.h"
#include "text/detokenizer.h"

namespace kt::session {
namespace {

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
  filter.push(detokenizer.flush());
  filter.flush();
  result.hit_stop_string = filter.hit();
  result.text = filter.text();
  return result;
}

std::string speed_report(const engine::Result& r) {
  const auto rate = [](double n, double seconds) { return seconds > 0 ? n / seconds : 0.0; };
  const std::int64_t n_prompt = r.n_prompt - r.n_cached;
  const auto n_generated = static_cast<std::int64_t>(r.tokens.size());
  return fmt::format(
      "prompt eval count:    {} token(s){}\n"
      "prompt eval duration: {:.6f}s\n"
      "prompt eval rate:     {:.2f} tokens/s\n"
      "eval count:           {} token(s)\n"
      "eval duration:        {:.6f}s\n"
      "eval rate:            {:.2f} tokens/s\n",
      n_prompt, r.n_cached > 0 ? fmt::format(" (+ {} cached)", r.n_cached) : std::string(),
      r.prefill_seconds, rate(static_cast<double>(n_prompt), r.prefill_seconds), n_generated,
      r.decode_seconds, rate(static_cast<double>(r.n_decoded), r.decode_seconds));
}

}  // namespace kt::session
