// Any JSON as the body of a request of any protocol: it becomes an Ask, whose messages every
// template can take, or an error that the protocol can say.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "serve/api/anthropic/request.h"
#include "serve/api/ollama/request.h"
#include "serve/api/openai/request.h"
#include "serve/api/openai/responses_request.h"
#include "serve/problem.h"
#include "text/messages.h"

namespace {

using namespace kt::serve;

ModelFacts make_facts(bool all) {
  ModelFacts facts;
  facts.id = "m";
  facts.chat_template = "{{ messages }}";
  facts.context = 4096;
  facts.vocab_size = 1000;
  facts.thinks = facts.calls_tools = all;
  facts.style.arguments_as_text = facts.style.thinking_key = all;
  return facts;
}

void read_ollama(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  const std::string name = ollama::read_name(fields);
  ollama::read_options(fields, facts, ask);
  ollama::read_keep_alive(fields);
  ollama::read_format(fields, ask);
  ollama::read_think(fields, facts, name, ask);
  ollama::read_tools(fields, facts, name, ask);
  if (fields.find("from") != nullptr) {
    const ModelDefaults defaults = ollama::read_defaults(fields, facts);
    ask->messages = begin_conversation(defaults, Json::array(), false);
  } else if (fields.find("messages") != nullptr) {
    ask->messages = ollama::read_messages(fields);
  } else {
    ollama::read_prompt(fields, facts, name, ask);
  }
}

void read(int protocol, const Fields& fields, const ModelFacts& facts, Ask* ask) {
  switch (protocol) {
    case 0:
      openai::read_sampling(fields, facts, ask);
      openai::read_conversation(fields, facts, ask);
      openai::read_grammar(fields, ask);
      break;
    case 1:
      openai::read_sampling(fields, facts, ask);
      openai::read_prompts(fields, "prompt", ask);
      openai::read_grammar(fields, ask);
      break;
    case 2:
      openai::read_response_sampling(fields, facts, ask);
      openai::read_response_input(fields, facts, ask);
      break;
    case 3:
      anthropic::read_sampling(fields, facts, ask);
      anthropic::read_conversation(fields, facts, ask);
      (void)anthropic::shows_thinking(fields);
      break;
    default: read_ollama(fields, facts, ask);
  }
}

// What errors say must be JSON whatever the body held.
void tell(const Problem& problem) {
  if (problem.status < 400 || problem.status >= 500) __builtin_trap();
  for (const Protocol protocol : {Protocol::kOpenAi, Protocol::kOllama, Protocol::kAnthropic}) {
    if (!Json::accept(problem_json(protocol, problem))) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ModelFacts kFacts[] = {make_facts(false), make_facts(true)};
  if (size < 1) return 0;
  const ModelFacts& facts = kFacts[data[0] >> 7];
  try {
    const Json body = parse_object({reinterpret_cast<const char*>(data + 1), size - 1});
    Ask ask;
    read((data[0] & 127) % 5, Fields(body), facts, &ask);
    ask.sampling.validate(facts.vocab_size);
    if (!ask.messages.is_null() &&
        !Json::accept(kt::text::prepare_messages(wire(ask.messages), facts.style))) {
      __builtin_trap();
    }
    if (!ask.tools.is_null() && !ask.tools.is_array()) __builtin_trap();
    if (!ask.template_kwargs.is_object()) __builtin_trap();
  } catch (...) {
    tell(current_problem());
  }
  return 0;
}
