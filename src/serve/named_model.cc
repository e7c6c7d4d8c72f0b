#include "serve/named_model.h"

#include <algorithm>

#include "base/error.h"
#include "session/generate.h"
#include "session/grammar_constraint.h"

namespace kt::serve {
namespace {

// `n_new`: tokens that must find room behind it.
void check_length(std::size_t n_tokens, std::int64_t n_new, std::int64_t context) {
  if (static_cast<std::int64_t>(n_tokens) + n_new <= context) return;
  fail(ErrorCode::kTooLong, {},
       "the prompt has {} tokens, the context holds {}; shorten the prompt, or serve with a larger "
       "--ctx",
       n_tokens, context);
}

// Fills in the log-probabilities of a prompt's tokens as its rows are computed.
PromptScores score_prompt(const std::vector<std::int32_t>& prompt, int n_top,
                          engine::Request& request) {
  const auto scores = std::make_shared<std::vector<engine::SampledToken>>(prompt.size());
  for (std::size_t i = 0; i < prompt.size(); ++i) (*scores)[i].id = prompt[i];
  request.on_prompt_logits = [scores, n_top](std::int64_t row, std::span<const float> logits) {
    const auto next = static_cast<std::size_t>(row) + 1;
    if (next < scores->size())
      (*scores)[next] = engine::with_logprobs(logits, (*scores)[next].id, n_top);
  };
  return scores;
}

}  // namespace

NamedModel::Rendered NamedModel::render(const Ask& ask) const {
  const ModelFacts& facts = this->facts();
  Json messages = begin_conversation(facts.defaults, ask.messages, !ask.before.empty());
  // A last message of the assistant is the beginning of the reply.
  Json begun;
  if (!messages.empty() && messages.back().is_object() &&
      messages.back().value("role", Json()) == "assistant" &&
      messages.back().value("content", Json()).is_string() &&
      !messages.back().contains("tool_calls")) {
    begun = messages.back();
    messages.erase(messages.size() - 1);
  }
  const std::string prepared = text::prepare_messages(wire(messages), facts.style);
  const std::string tools = ask.tools.is_null() ? std::string() : wire(ask.tools);
  const std::string kwargs = wire(ask.template_kwargs);
  text::ChatInput input;
  input.messages_json = prepared;
  input.tools_json = tools;
  input.kwargs_json = kwargs;
  Rendered out;
  out.prompt = worker().read([&](const session::Session& session) {
    return session::render_chat(session, input, facts.defaults.chat_template.get());
  });
  out.format = text::detect_reply_format(facts.chat_template, out.prompt);
  if (!begun.is_null()) {
    const Json reasoning = begun.value("reasoning_content", Json());
    text::begin_reply(reasoning.is_string() ? reasoning.get<std::string>() : std::string(),
                      begun["content"].get<std::string>(), &out.prompt, &out.format);
  }
  return out;
}

std::vector<std::int32_t> NamedModel::tokenize(std::string_view text, bool add_special,
                                               bool parse_special) const {
  return worker().read([&](const session::Session& session) {
    if (session.tokenizer() == nullptr) {
      fail(ErrorCode::kUnsupported, "prompt", "this model has no tokenizer; send token ids");
    }
    return session.tokenizer()->encode(text, add_special, parse_special);
  });
}

std::string NamedModel::detokenize(const std::vector<std::int32_t>& tokens) const {
  return worker().read([&](const session::Session& session) {
    if (session.tokenizer() == nullptr)
      fail(ErrorCode::kUnsupported, "tokens", "this model has no tokenizer");
    return session.tokenizer()->decode(tokens, false);
  });
}

std::string NamedModel::token_bytes(std::int32_t token) const {
  return worker().read([&](const session::Session& session) {
    return session.tokenizer() == nullptr ? std::string()
                                          : std::string(session.tokenizer()->token_bytes(token));
  });
}

bool NamedModel::is_control(std::int32_t token) const {
  return worker().read([&](const session::Session& session) {
    return session.tokenizer() != nullptr && session.tokenizer()->is_special(token);
  });
}

std::vector<std::int32_t> NamedModel::tokens_of(const Ask::Prompt& prompt) const {
  if (prompt.is_tokens) return prompt.tokens;
  std::vector<std::int32_t> tokens = tokenize(prompt.text, true, false);
  if (tokens.empty()) {
    const auto bos = worker().read([](const session::Session& s) { return s.tokenizer()->bos(); });
    if (bos) tokens.push_back(*bos);
  }
  return tokens;
}

std::vector<std::vector<std::int32_t>> NamedModel::prompt_tokens(
    const std::vector<Ask::Prompt>& prompts) const {
  std::vector<std::vector<std::int32_t>> all;
  for (const Ask::Prompt& prompt : prompts) {
    all.push_back(tokens_of(prompt));
    check_length(all.back().size(), 0, facts().context);
  }
  return all;
}

std::vector<std::int32_t> NamedModel::tokens_of(const Ask& ask, const std::string& rendered) const {
  std::vector<std::int32_t> tokens = tokenize(rendered, false, true);
  if (ask.before.empty()) return tokens;
  // A text begins once; where the token occurs again it is a mark of turns (ChatML) and stays.
  const auto bos = worker().read([](const session::Session& s) { return s.tokenizer()->bos(); });
  if (bos && std::count(tokens.begin(), tokens.end(), *bos) == 1 && tokens.front() == *bos)
    tokens.erase(tokens.begin());
  tokens.insert(tokens.begin(), ask.before.begin(), ask.before.end());
  return tokens;
}

std::vector<std::int32_t> NamedModel::tokenize_chat(const Ask& ask) const {
  return tokens_of(ask, render(ask).prompt);
}

Generation NamedModel::generate(const Ask& ask) const {
  const ModelFacts& facts = this->facts();
  const std::size_t n_prompts = ask.messages.is_null() ? ask.prompts.size() : 1;
  worker().expect_room(n_prompts * static_cast<std::size_t>(ask.n));  // before anything is copied
  Generation generation;
  generation.asked = {facts.id, ask.sampling, ask.max_tokens, ask.n};
  std::vector<std::vector<std::int32_t>> prompts;
  session::TextOptions text;
  text.stops = ask.stops;
  if (!ask.messages.is_null()) {
    auto [prompt, format] = render(ask);
    if (ask.tools.is_null())
      format.tools = text::ToolSyntax::kNone;
    else
      generation.tools = wire(ask.tools);
    text.kept = facts.markers;
    prompts.push_back(tokens_of(ask, prompt));
    generation.formats.push_back(std::move(format));
  } else {
    for (const Ask::Prompt& prompt : ask.prompts) prompts.push_back(tokens_of(prompt));
    generation.formats.resize(prompts.size());
  }
  std::optional<text::Grammar> grammar;
  if (ask.required_tool) {
    grammar = worker().read([&](const session::Session& session) {
      return session.grammars().compile(
          text::tool_grammar(generation.formats[0], generation.tools, *session.tokenizer(),
                             *ask.required_tool),
          "tools");
    });
  } else if (ask.grammar) {
    grammar = worker().read([&](const session::Session& session) {
      return session.grammars().compile(*ask.grammar, "response_format");
    });
  }
  for (const auto& prompt : prompts) {
    generation.n_prompt.push_back(static_cast<std::int64_t>(prompt.size()));
    check_length(prompt.size(), ask.max_tokens == 0 ? 0 : 1, facts.context);
  }
  ask.sampling.validate(facts.vocab_size);
  if (ask.seconds > 0) {
    text.deadline = std::chrono::steady_clock::now() +
                    std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                        std::chrono::duration<double>(ask.seconds));
  }
  const bool may_reason = ask.template_kwargs.value("enable_thinking", Json()) != false;
  std::vector<engine::Request> requests;
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const session::ReasoningMarks marks =
        session::reasoning_marks(generation.formats[p], may_reason);
    for (int i = 0; i < ask.n; ++i) {
      engine::Request& request = requests.emplace_back(this->request(ask, prompts[p]));
      if (ask.prompt_logprobs && i == 0)
        generation.scores.push_back(score_prompt(prompts[p], ask.n_top_logprobs, request));
      if (grammar) {
        request.constraint = worker().read([&](const session::Session& session) {
          return std::make_shared<session::GrammarConstraint>(grammar->fresh(),
                                                              *session.tokenizer(), marks);
        });
      }
      if (ask.sampling.seed != 0) request.sampling.seed += static_cast<std::uint64_t>(i);
    }
  }
  generation.n_ahead = worker().load().n_waiting;
  generation.tickets = worker().submit(std::move(requests), text);
  generation.prompts = std::move(prompts);
  return generation;
}

engine::Request NamedModel::request(const Ask& ask, std::vector<std::int32_t> prompt) const {
  engine::Request request;
  request.prompt = std::move(prompt);
  request.logprobs = ask.logprobs;
  request.n_top_logprobs = ask.n_top_logprobs;
  request.sampling = ask.sampling;
  request.max_tokens = ask.max_tokens;
  request.stop_tokens =
      worker().read([](const session::Session& session) { return session.stop_tokens(); });
  request.ignore_stop_tokens = ask.ignore_eos;
  return request;
}

}  // namespace kt::serve
