// Any bytes as a template, and any bytes as its messages: errors are fine, all else is a finding.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = text.find('\0');
  kt::text::ChatInput input;
  input.messages_json = R"([{"role": "user", "content": "hi", "n": [1, 2.5, null, true]}])";
  if (cut != std::string_view::npos) input.messages_json = text.substr(cut + 1);
  input.now = 0;
  try {
    (void)kt::text::ChatTemplate::compile(text.substr(0, cut)).render(input);
  } catch (const kt::Error& error) {
    if (error.code() == kt::ErrorCode::kInternal) __builtin_trap();
  }
  return 0;
}
