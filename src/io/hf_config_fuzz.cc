// libFuzzer target of config.json: whatever is accepted must have sane sizes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "io/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto config = kt::io::parse_hf_config(text, "", "config.json").model;
    if (config.n_layers < 1 || config.d_model < 1 || config.n_heads < 1) __builtin_trap();
    if (config.moe.n_experts > 0 && config.moe.n_active > config.moe.n_experts) __builtin_trap();
    config.sparse_layer(0);
  } catch (const kt::Error&) {
  }
  return 0;
}
