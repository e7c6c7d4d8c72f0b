// What is known of a model without running it: for clients that ask, and to check requests by.
//
//   an open Session, or the headers of the files → ModelFacts
//
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "io/model_config.h"
#include "serve/model_defaults.h"
#include "session/session.h"
#include "text/messages.h"

namespace kt::serve {

/// The name it was asked for by, or that of its file or folder.
std::string default_id(const std::string& model);

struct ModelOptions {
  std::string id;  // as requests name it
  session::Options session;
  std::size_t max_running = 16;
  std::size_t max_waiting = 512;
  /// Called each time that it was opened, on its thread; may be empty.
  std::function<void(const std::string& id, const session::LoadReport& report)> on_open;
};

struct ModelFacts {
  std::string id;
  std::string path;
  std::string architecture;
  std::int64_t context = 0;
  std::int64_t max_context = 0;
  std::int64_t vocab_size = 0;
  std::int64_t d_model = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t loaded_bytes = 0;  // weights and cache in memory; 0: not open
  std::int64_t n_parameters = 0;
  std::string format;  // that holds most of them
  io::ModelConfig config;
  ModelDefaults defaults;
  std::string chat_template;  // source; empty: plain text only
  text::MessageStyle style;
  std::vector<text::TokenId> markers;  // control tokens that replies are taken apart by
  bool thinks = false;
  bool calls_tools = false;
};

ModelFacts read_facts(const session::Session& session, const ModelOptions& options);
/// The same of a model that is not open. Throws as Session::open.
ModelFacts read_facts(const ModelOptions& options);
/// The same under a name with other defaults. Without a tokenizer (null) no replies can be read by
/// them where the template is another.
ModelFacts with_defaults(ModelFacts facts, const ModelDefaults& defaults,
                         const text::Tokenizer* tokenizer);

}  // namespace kt::serve
