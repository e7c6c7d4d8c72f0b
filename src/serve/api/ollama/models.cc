#include "serve/api/ollama/models.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "base/sha256.h"
#include "serve/api/ollama/times.h"

namespace kt::serve::ollama {
namespace {

// Every name has a tag there.
std::string tagged(const std::string& id) {
  return id.find(':') == std::string::npos ? id + ":latest" : id;
}

std::string size_text(std::int64_t n) {
  const auto number = static_cast<double>(n);
  if (n >= 1'000'000'000'000) return fmt::format("{:.1f}T", number / 1e12);
  if (n >= 1'000'000'000) return fmt::format("{:.1f}B", number / 1e9);
  if (n >= 1'000'000) return fmt::format("{:.2f}M", number / 1e6);
  return fmt::format("{:.2f}K", number / 1e3);
}

std::chrono::system_clock::time_point modified(const std::string& path) {
  std::error_code ignored;
  const auto time = std::filesystem::last_write_time(path, ignored);
  return ignored ? std::chrono::system_clock::time_point() : std::chrono::file_clock::to_sys(time);
}

// Names the file as it is now; reading all of it for its own digest would take minutes.
std::string digest(const std::string& path, std::uint64_t bytes) {
  const std::string what = fmt::format("{}\n{}\n{}", path, bytes, time_text(modified(path)));
  return sha256_hex(std::as_bytes(std::span(what)));
}

Json capabilities(const ModelFacts& facts) {
  Json list = {"completion"};
  if (facts.calls_tools) list.push_back("tools");
  if (facts.thinks) list.push_back("thinking");
  return list;
}

Json details(const ModelFacts& facts) {
  const bool gguf = std::filesystem::path(facts.path).extension() == ".gguf";
  return {{"parent_model", ""},
          {"format", gguf ? "gguf" : "safetensors"},
          {"family", facts.architecture},
          {"families", {facts.architecture}},
          {"parameter_size", size_text(facts.n_parameters)},
          {"quantization_level", facts.format},
          {"context_length", facts.context},
          {"embedding_length", facts.d_model}};
}

// As GGUF's metadata names it, save that the context is the one that is served: clients cut their
// prompts to it.
Json info(const ModelFacts& facts) {
  const io::ModelConfig& config = facts.config;
  const std::string& arch = facts.architecture;
  Json json = {{"general.architecture", arch},
               {"general.basename", config.name.empty() ? facts.id : config.name},
               {"general.parameter_count", facts.n_parameters},
               {arch + ".context_length", facts.context},
               {arch + ".embedding_length", config.d_model},
               {arch + ".block_count", config.n_layers},
               {arch + ".feed_forward_length", config.d_ff},
               {arch + ".attention.head_count", config.n_heads},
               {arch + ".attention.head_count_kv", config.n_kv_heads},
               {arch + ".vocab_size", config.vocab_size}};
  if (config.moe.n_experts > 0) {
    json[arch + ".expert_count"] = config.moe.n_experts;
    json[arch + ".expert_used_count"] = config.moe.n_active;
  }
  return json;
}

// What holds of the usual ones, and what else was given.
std::string parameters(const ModelDefaults& defaults) {
  const engine::SamplingParams& p = defaults.sampling;
  std::string text;
  std::vector<std::string_view> usual;
  const auto write = [&text](std::string_view name, const auto& value) {
    text += fmt::format("{:<30} {}\n", name, value);
  };
  const auto line = [&](const char* name, auto value) {
    write(name, value);
    usual.emplace_back(name);
  };
  line("temperature", p.temperature);
  line("top_k", p.top_k);
  line("top_p", p.top_p);
  line("min_p", p.min_p);
  line("repeat_penalty", p.repetition_penalty);
  for (const auto& [name, value] : defaults.parameters.items()) {
    if (std::find(usual.begin(), usual.end(), name) != usual.end()) continue;
    const Json list = value.is_array() ? value : Json::array({value});
    for (const Json& one : list) write(name, wire(one));
  }
  return text;
}

std::string modelfile(const ModelFacts& facts) {
  const ModelDefaults& defaults = facts.defaults;
  std::string text = "FROM " + facts.path + "\n";
  const auto block = [&text](const std::string& keyword, const std::string& value) {
    if (!value.empty()) text += fmt::format("{} \"\"\"{}\"\"\"\n", keyword, value);
  };
  block("TEMPLATE", facts.chat_template);
  block("SYSTEM", defaults.system);
  std::string_view rest;
  const std::string all = parameters(defaults);
  for (rest = all; !rest.empty(); rest.remove_prefix(rest.find('\n') + 1))
    text += fmt::format("PARAMETER {}\n", rest.substr(0, rest.find('\n')));
  for (const Json& message : defaults.messages) {
    const Fields fields(message);
    block("MESSAGE " + fields.text("role").value_or(""), fields.text("content").value_or(""));
  }
  block("LICENSE", defaults.license);
  return text;
}

}  // namespace

Json tag_json(const Models::State& state) {
  if (!state.is(ServedModel::State::kOpen)) {
    std::error_code ignored;
    const auto size = std::filesystem::file_size(state.path, ignored);
    return {{"name", tagged(state.id)},
            {"model", tagged(state.id)},
            {"modified_at", time_text(modified(state.path))},
            {"size", ignored ? 0 : size},
            {"digest", digest(state.path, ignored ? 0 : size)},
            {"details", Json::object()}};
  }
  const auto shared = state.model->shared_facts();
  const ModelFacts& facts = *shared;
  return {{"name", tagged(state.id)},
          {"model", tagged(state.id)},
          {"modified_at", time_text(modified(facts.path))},
          {"size", facts.file_bytes},
          {"digest", digest(facts.path, facts.file_bytes)},
          {"details", details(facts)},
          {"capabilities", capabilities(facts)}};
}

Json loaded_json(const Models::State& state) {
  const auto shared = state.model->shared_facts();
  const ModelFacts& facts = *shared;
  constexpr std::chrono::hours kLong(24 * 365 * 100);
  const auto now = std::chrono::system_clock::now();
  return {{"name", tagged(state.id)},
          {"model", tagged(state.id)},
          {"size", facts.loaded_bytes},
          {"digest", digest(facts.path, facts.file_bytes)},
          {"details", details(facts)},
          {"expires_at", time_text(std::min(state.until, now + kLong))},
          {"size_vram", 0},
          {"context_length", facts.context}};
}

Json show_json(const ModelFacts& facts) {
  const ModelDefaults& defaults = facts.defaults;
  Json json = {
      {"modelfile", modelfile(facts)},       {"parameters", parameters(defaults)},
      {"template", facts.chat_template},     {"license", defaults.license},
      {"details", details(facts)},           {"model_info", info(facts)},
      {"capabilities", capabilities(facts)}, {"modified_at", time_text(modified(facts.path))}};
  if (!defaults.system.empty()) json["system"] = defaults.system;
  if (!defaults.messages.empty()) json["messages"] = defaults.messages;
  return json;
}

}  // namespace kt::serve::ollama
