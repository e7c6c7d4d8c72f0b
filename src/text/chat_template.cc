#include "text/chat_template.h"

#include <ctime>
#include <utility>

#include "text/hf_json.h"
#include "text/rust_bridge.h"

namespace kt::text {
namespace {

rs::DateTime local_time(std::int64_t seconds) {
  const auto when = static_cast<std::time_t>(seconds);
  std::tm local{};
  if (localtime_r(&when, &local) == nullptr) {
    fail(ErrorCode::kUsage, "now", "{} is no time that a calendar has", seconds);
  }
  rs::DateTime out{};
  out.year = local.tm_year + 1900;
  out.month = static_cast<std::uint32_t>(local.tm_mon + 1);
  out.day = static_cast<std::uint32_t>(local.tm_mday);
  out.hour = static_cast<std::uint32_t>(local.tm_hour);
  out.minute = static_cast<std::uint32_t>(local.tm_min);
  out.second = static_cast<std::uint32_t>(local.tm_sec);
  out.weekday = static_cast<std::uint32_t>(local.tm_wday);
  out.yearday = static_cast<std::uint32_t>(local.tm_yday + 1);
  return out;
}

}  // namespace

struct ChatTemplate::Impl {
  std::string path;
  std::string source;
  rust::Box<rs::Template> compiled;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::compile(std::string_view source, const std::string& path) {
  rust::Box<rs::Template> compiled =
      call_rust(path, [&] { return rs::template_compile(bytes_of(source)); });
  return ChatTemplate(std::make_unique<Impl>(Impl{path, std::string(source), std::move(compiled)}));
}

std::string ChatTemplate::render(const ChatInput& input) const {
  rs::RenderRaw raw{bytes_of(input.messages_json),
                    bytes_of(input.tools_json),
                    bytes_of(input.documents_json),
                    bytes_of(input.kwargs_json),
                    input.add_generation_prompt,
                    bytes_of(input.bos_token),
                    bytes_of(input.eos_token),
                    local_time(input.now.value_or(static_cast<std::int64_t>(std::time(nullptr))))};
  const rust::Vec<std::uint8_t> text =
      call_rust(impl_->path, [&] { return impl_->compiled->render(raw); });
  return std::string(reinterpret_cast<const char*>(text.data()), text.size());
}

const std::string& ChatTemplate::source() const noexcept { return impl_->source; }

HfChatTemplates read_hf_chat_templates(const std::string& folder) {
  HfChatTemplates out;
  if (std::optional<std::string> text = read_optional(folder + "/chat_template.jinja")) {
    out.standard = std::move(*text);
    return out;
  }
  const nlohmann::json config = read_optional_json(folder + "/tokenizer_config.json");
  const auto found = config.find("chat_template");
  if (found == config.end()) return out;
  if (found->is_string()) out.standard = found->get<std::string>();
  if (!found->is_array()) return out;
  for (const nlohmann::json& entry : *found) {
    const std::string name = string_or(entry, "name");
    const std::string text = string_or(entry, "template");
    if (name == "default" || found->size() == 1) out.standard = text;
    if (name == "tool_use") out.tool_use = text;
  }
  return out;
}

}  // namespace kt::text
