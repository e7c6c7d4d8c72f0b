#include "serve/model_facts.h"

#include <filesystem>
#include <map>

#include "formats/format.h"
#include "session/generate.h"
#include "session/registry.h"
#include "session/text_parts.h"
#include "text/reply_format.h"

namespace kt::serve {
namespace {

struct Parts {
  const io::WeightSource& source;
  const text::Tokenizer* tokenizer;         // may be null
  const text::ChatTemplate* chat_template;  // may be null
};

void read_weights(const io::WeightSource& source, ModelFacts* facts) {
  std::map<std::string_view, std::int64_t> formats;
  for (const io::TensorInfo& tensor : source.tensors()) {
    facts->n_parameters += tensor.shape.count();
    formats[formats::traits(tensor.format).name] += tensor.shape.count();
  }
  std::int64_t most = 0;
  for (const auto& [name, count] : formats) {
    if (count > most) facts->format = name;
    most = std::max(most, count);
  }
}

// What a template shows of the model. `tokenizer` may be null.
void read_template(const text::ChatTemplate& chat_template, const text::MessageStyle& style,
                   const text::Tokenizer* tokenizer, ModelFacts* facts) {
  facts->chat_template = chat_template.source();
  facts->style = style;
  const text::ReplyFormat format = text::detect_reply_format(facts->chat_template, {});
  facts->markers.clear();
  if (tokenizer != nullptr) facts->markers = text::marker_tokens(format, *tokenizer);
  facts->thinks = format.harmony || !format.reasoning_open.empty();
  facts->calls_tools = format.harmony || format.tools != text::ToolSyntax::kNone;
}

ModelFacts read_parts(const Parts& parts, const ModelOptions& options) {
  ModelFacts facts;
  facts.id = options.id;
  facts.path = parts.source.path();
  facts.config = parts.source.config();
  facts.architecture = facts.config.architecture;
  facts.max_context = facts.config.max_context;
  facts.vocab_size = facts.config.vocab_size;
  facts.d_model = facts.config.d_model;
  facts.defaults.sampling = session::advised_sampling(facts.config.sampling);
  read_weights(parts.source, &facts);
  if (parts.chat_template == nullptr || parts.tokenizer == nullptr) return facts;
  read_template(*parts.chat_template, text::MessageStyle::probe(*parts.chat_template),
                parts.tokenizer, &facts);
  return facts;
}

}  // namespace

std::string default_id(const std::string& model) {
  std::filesystem::path path(model);
  if (!path.has_filename()) path = path.parent_path();
  return path.extension() == ".gguf" ? path.stem().string() : path.filename().string();
}

ModelFacts read_facts(const session::Session& session, const ModelOptions& options) {
  ModelFacts facts =
      read_parts({session.source(), session.tokenizer(), session.chat_template()}, options);
  const session::LoadReport& report = session.load_report();
  facts.context = session.engine().options().context;
  facts.file_bytes = report.file_bytes;
  facts.loaded_bytes = report.packed_bytes + report.kv_bytes;
  return facts;
}

ModelFacts read_facts(const ModelOptions& options) {
  const auto source = io::open_weights(session::resolve_model(options.session.model));
  const auto tokenizer = session::open_tokenizer(*source);
  const auto chat_template = session::open_chat_template(*source, options.session.chat_template);
  ModelFacts facts = read_parts({*source, tokenizer.get(), chat_template.get()}, options);
  const std::int64_t context = options.session.context;
  facts.context = context > 0 ? context : facts.max_context;
  return facts;
}

ModelFacts with_defaults(ModelFacts facts, const ModelDefaults& defaults,
                         const text::Tokenizer* tokenizer) {
  facts.defaults = defaults;
  if (defaults.chat_template != nullptr)
    read_template(*defaults.chat_template, defaults.style, tokenizer, &facts);
  return facts;
}

}  // namespace kt::serve
