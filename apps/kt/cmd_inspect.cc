// kt inspect: what a model file holds and the tree it becomes. Reads headers only, so it takes no
// memory worth naming and works for models larger than this machine.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "commands.h"
#include "diagram.h"
#include "io/gguf_source.h"
#include "models/model.h"
#include "options.h"
#include "print.h"
#include "session/registry.h"
#include "session/text_parts.h"

namespace kt::app {
namespace {

struct InspectArgs {
  std::string model;
  bool tensors = false;
  bool chat_template = false;
  bool metadata = false;
  bool json = false;
};

double stored_bytes(const io::TensorInfo& info) {
  return static_cast<double>(formats::row_bytes(info.format, info.shape.n_cols())) *
         static_cast<double>(info.shape.n_rows());
}

std::string attention_text(const io::ModelConfig& config) {
  if (config.mla.kv_lora_rank > 0) {
    return fmt::format("multi-head latent attention: {} heads, latent {}, rope {}", config.n_heads,
                       config.mla.kv_lora_rank, config.mla.qk_rope_dim);
  }
  std::string text = fmt::format("{} heads, {} key/value heads, head width {}", config.n_heads,
                                 config.n_kv_heads, config.head_dim);
  if (config.sliding_window > 0) text += fmt::format(", window {}", config.sliding_window);
  return text;
}

std::string feed_forward_text(const io::ModelConfig& config) {
  const io::MoeConfig& moe = config.moe;
  if (moe.n_experts == 0) return fmt::format("dense, width {}", config.d_ff);
  std::string text =
      fmt::format("{} experts of width {}, {} per token", moe.n_experts, moe.d_ff, moe.n_active);
  if (moe.n_shared > 0) text += fmt::format(", {} shared", moe.n_shared);
  if (moe.n_groups > 1) text += fmt::format(", {} of {} groups", moe.n_groups_used, moe.n_groups);
  if (moe.n_dense_layers > 0) text += fmt::format("; first {} layers dense", moe.n_dense_layers);
  return text;
}

std::map<std::string, std::pair<std::int64_t, double>> by_format(const io::WeightSource& source) {
  std::map<std::string, std::pair<std::int64_t, double>> totals;
  for (const io::TensorInfo& info : source.tensors()) {
    auto& [count, bytes] = totals[std::string(formats::traits(info.format).name)];
    ++count;
    bytes += stored_bytes(info);
  }
  return totals;
}

void print_summary(const io::WeightSource& source, const TreeSize& size,
                   const std::string& chat_template) {
  const io::ModelConfig& config = source.config();
  Table table("ll");
  table.row({"file", source.path()});
  if (!config.name.empty()) table.row({"name", config.name});
  table.row({"architecture", config.architecture});
  std::string parameters = format_count(size.parameters);
  if (config.moe.n_experts > 0)
    parameters += ", " + format_count(size.active_parameters) + " used per token";
  table.row({"parameters", parameters});
  table.row({"weights", format_bytes(size.bytes)});
  table.row({"layers", std::to_string(config.n_layers)});
  table.row({"width", std::to_string(config.d_model)});
  table.row({"attention", attention_text(config)});
  table.row({"feed-forward", feed_forward_text(config)});
  table.row({"vocabulary", std::to_string(config.vocab_size)});
  table.row({"context", std::to_string(config.max_context)});
  std::string formats;
  for (const auto& [name, total] : by_format(source)) {
    formats += fmt::format("{}{} × {} ({})", formats.empty() ? "" : ", ", total.first, name,
                           format_bytes(total.second));
  }
  table.row({"tensors", formats});
  table.row({"chat template", chat_template.empty()
                                  ? "none"
                                  : fmt::format("{} characters; --template prints it",
                                                display_width(chat_template))});
  std::fputs(table.text().c_str(), stdout);
}

void print_tensors(const io::WeightSource& source) {
  Table table("lllrl");
  for (const io::TensorInfo& info : source.tensors()) {
    table.row({info.name, info.shape.to_string(), std::string(formats::traits(info.format).name),
               format_bytes(stored_bytes(info)),
               info.stored_name == info.name ? "" : info.stored_name});
  }
  std::fputs(table.text().c_str(), stdout);
}

std::string value_text(const io::GgufValue& value) {
  constexpr std::size_t kLongest = 80;
  struct Visitor {
    std::string operator()(std::uint64_t v) const { return std::to_string(v); }
    std::string operator()(std::int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return fmt::format("{}", v); }
    std::string operator()(std::string_view v) const {
      return nlohmann::json(v.substr(0, kLongest))
                 .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) +
             (v.size() > kLongest ? fmt::format("… ({} bytes)", v.size()) : "");
    }
    std::string operator()(const io::GgufArray& v) const {
      return fmt::format("{} × {}", v.n, io::gguf_type_name(v.element));
    }
  };
  return std::visit(Visitor{}, value.value);
}

void print_metadata(const io::WeightSource& source) {
  const auto* gguf = dynamic_cast<const io::GgufSource*>(&source);
  if (gguf == nullptr) {
    fail(ErrorCode::kUsage, "--metadata", "{} is no GGUF file; its metadata is config.json",
         source.path());
  }
  Table table("ll");
  for (const auto& item : gguf->gguf().metadata().items()) {
    table.row({std::string(item.key), value_text(item.value)});
  }
  std::fputs(table.text().c_str(), stdout);
}

void print_json(const io::WeightSource& source, const TreeSize& size,
                const std::string& chat_template) {
  const io::ModelConfig& config = source.config();
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const io::TensorInfo& info : source.tensors()) {
    nlohmann::ordered_json shape = nlohmann::ordered_json::array();
    for (int i = 0; i < info.shape.rank(); ++i) shape.push_back(info.shape[i]);
    tensors.push_back({{"name", info.name},
                       {"stored_name", info.stored_name},
                       {"format", formats::traits(info.format).name},
                       {"shape", shape},
                       {"bytes", stored_bytes(info)}});
  }
  const nlohmann::ordered_json json = {{"path", source.path()},
                                       {"name", config.name},
                                       {"architecture", config.architecture},
                                       {"parameters", size.parameters},
                                       {"active_parameters", size.active_parameters},
                                       {"weight_bytes", size.bytes},
                                       {"n_layers", config.n_layers},
                                       {"d_model", config.d_model},
                                       {"n_heads", config.n_heads},
                                       {"n_kv_heads", config.n_kv_heads},
                                       {"n_experts", config.moe.n_experts},
                                       {"n_active", config.moe.n_active},
                                       {"vocab_size", config.vocab_size},
                                       {"max_context", config.max_context},
                                       {"chat_template", chat_template},
                                       {"tensors", tensors}};
  std::fputs((json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n").c_str(),
             stdout);
}

int inspect(const InspectArgs& args) {
  const auto source = io::open_weights(session::resolve_model(args.model));
  const std::string chat_template = session::chat_template_source(*source);
  if (args.chat_template) {
    if (chat_template.empty()) fail(ErrorCode::kNotFound, source->path(), "has no chat template");
    std::fputs((chat_template + (chat_template.back() == '\n' ? "" : "\n")).c_str(), stdout);
    return 0;
  }
  if (args.metadata) {
    print_metadata(*source);
    return 0;
  }
  if (args.tensors) {
    print_tensors(*source);
    return 0;
  }
  const operators::Placement placement;
  const auto model = models::build_model(source->config(), placement);
  const TreeSize size = tree_size(*model, *source);
  if (args.json) {
    print_json(*source, size, chat_template);
    return 0;
  }
  print_summary(*source, size, chat_template);
  std::fputs(("\n" + block_diagram(*model, *source)).c_str(), stdout);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& root, Action& action) {
  auto args = std::make_shared<InspectArgs>();
  CLI::App* command =
      root.add_subcommand("inspect", "Show what is in a model file, without loading it");
  command->group("Models");
  add_model_argument(*command, args->model);
  command->add_flag("--tensors", args->tensors, "List every tensor");
  command->add_flag("--template", args->chat_template, "Print the chat template");
  command->add_flag("--metadata", args->metadata, "List the metadata of a GGUF file");
  command->add_flag("--json", args->json, "Print all of it as JSON");
  command->footer(
      examples({"kt inspect model.gguf", "kt inspect model.gguf --tensors | sort -k4"}));
  command->callback([args, &action] { action = [args] { return inspect(*args); }; });
}

}  // namespace kt::app
