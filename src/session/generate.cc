#include "session/generate.h"

namespace kt::session {
namespace {

const std::vector<std::string>& checked(const std::vector<std::string>& stops) {
  for (const std::string& s : stops) {
    if (s.empty()) fail(ErrorCode::kUsage, "stop", "an empty stop string would stop at once");
  }
  return stops;
}

}  // namespace

engine::Request engine_request(const Session& session, const TextRequest& request) {
  KT_CHECK(session.tokenizer() != nullptr);
  const text::Tokenizer& tokenizer = *session.tokenizer();
  engine::Request run;
  run.prompt = tokenizer.encode(request.prompt, request.add_special, request.parse_special);
  if (run.prompt.empty() && tokenizer.bos()) run.prompt.push_back(*tokenizer.bos());
  run.sampling = request.sampling;
  run.logprobs = false;
  run.max_tokens = request.max_tokens;
  run.stop_tokens = session.stop_tokens();
  run.ignore_stop_tokens = request.ignore_eos;
  run.on_prefill = request.on_prefill;
  return run;
}

TextOutput::TextOutput(const text::Tokenizer& tokenizer, const std::vector<std::string>& stops,
                       StopFilter::Sink sink, std::vector<std::int32_t> kept)
    : filter_(checked(stops), std::move(sink)), detokenizer_(tokenizer, true, false) {
  detokenizer_.keep(std::move(kept));
}

bool TextOutput::push(std::int32_t token) {
  const std::string_view piece = detokenizer_.push(token);
  return piece.empty() || filter_.push(piece);
}

void TextOutput::finish() {
  filter_.push(detokenizer_.flush());
  filter_.flush();
}

TextResult generate_text(Session& session, const TextRequest& request) {
  engine::Request run = engine_request(session, request);
  TextOutput output(*session.tokenizer(), request.stop, request.on_text);
  run.on_token = [&](const engine::SampledToken& token) { return output.push(token.id); };
  TextResult result;
  result.engine = session.engine().generate(std::move(run));
  output.finish();
  result.stop_string = output.stop_string();
  result.text = output.text();
  return result;
}

std::string render_chat(const Session& session, text::ChatInput input,
                        const text::ChatTemplate* other) {
  const text::ChatTemplate* chat_template = other != nullptr ? other : session.chat_template();
  if (chat_template == nullptr || session.tokenizer() == nullptr) {
    fail(ErrorCode::kUnsupported, session.source().path(),
         "has no chat template, it completes plain text only");
  }
  const text::Tokenizer& tokenizer = *session.tokenizer();
  const auto spelling = [&tokenizer](std::optional<text::TokenId> id) {
    return id ? tokenizer.id_to_piece(*id) : std::string_view();
  };
  input.bos_token = spelling(tokenizer.bos());
  input.eos_token = spelling(tokenizer.eos());
  return chat_template->render(input);
}

engine::SamplingParams advised_sampling(const io::SamplingAdvice& advice) {
  engine::SamplingParams sampling;
  const auto set = [](const auto& value, auto* target) {
    if (value) *target = static_cast<std::remove_reference_t<decltype(*target)>>(*value);
  };
  set(advice.temperature, &sampling.temperature);
  set(advice.top_k, &sampling.top_k);
  set(advice.top_p, &sampling.top_p);
  set(advice.min_p, &sampling.min_p);
  set(advice.typical_p, &sampling.typical_p);
  set(advice.repetition_penalty, &sampling.repetition_penalty);
  return sampling;
}

std::string speed_report(const engine::Result& r) {
  const auto rate = [](double n, double seconds) { return seconds > 0 ? n / seconds : 0.0; };
  const std::int64_t n_prompt = r.n_prompt - r.n_cached;
  const auto n_generated = static_cast<std::int64_t>(r.tokens.size());
  std::string text = fmt::format(
      "prompt eval count:    {} token(s){}\n"
      "prompt eval duration: {:.6f}s\n"
      "prompt eval rate:     {:.2f} tokens/s\n"
      "eval count:           {} token(s)\n"
      "eval duration:        {:.6f}s\n"
      "eval rate:            {:.2f} tokens/s\n",
      n_prompt, r.n_cached > 0 ? fmt::format(" (+ {} cached)", r.n_cached) : std::string(),
      r.prefill_seconds, rate(static_cast<double>(n_prompt), r.prefill_seconds), n_generated,
      r.decode_seconds, rate(static_cast<double>(r.n_decoded), r.decode_seconds));
  if (r.n_drafted > 0) {
    text +=
        fmt::format("guessed:              {} of {} token(s) right\n", r.n_accepted, r.n_drafted);
  }
  return text;
}

}  // namespace kt::session
