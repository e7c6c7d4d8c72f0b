// Reads Ollama's requests into an Ask, and what /api/create gives a name to say. Format: ollama
// api/types.go and docs/api.md, August 2026.
//
// Thread rule: pure.
#pragma once
#include <optional>
#include <string>

#include "serve/ask.h"
#include "serve/model_facts.h"

namespace kt::serve::ollama {

/// `model`, or `name` as older clients call it. Throws kUsage when there is none.
std::string read_name(const Fields& fields);

/// `options`: sampling, limits and stops. Throws kUsage naming the field, kUnsupported for a
/// context larger than the one that is served.
void read_options(const Fields& fields, const ModelFacts& facts, Ask* ask);

/// `system`, `messages`, `template`, `parameters` (options) and `license` of /api/create, over the
/// defaults that there are. Throws kUsage naming the field; kUnsupported as read_options, for a
/// template that is not Jinja's, and for messages that no template takes.
ModelDefaults read_defaults(const Fields& fields, const ModelFacts& facts);

/// `think`: whether, or how hard. `name` is for messages. Throws kUsage, kUnsupported.
void read_think(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask);

/// `format`: the grammar of the reply. Throws kUnsupported for any but plain text.
void read_format(const Fields& fields, Ask* ask);

/// `keep_alive` in seconds, negative for ever. Throws kUsage.
std::optional<double> read_keep_alive(const Fields& fields);

/// `messages` in OpenAI's form; an empty array when there are none. Calls without an id get one,
/// and results without an id that of the call that they belong to. Throws kUsage, kUnsupported.
Json read_messages(const Fields& fields);

/// `tools`. Throws kUsage, kUnsupported when the model calls none.
void read_tools(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask);

/// The prompt of /api/generate, with what stands before it; for raw ones its text only. False when
/// there is none. Throws kUsage, kUnsupported.
bool read_prompt(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask);

}  // namespace kt::serve::ollama
