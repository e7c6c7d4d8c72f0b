// libFuzzer target of rule files: whatever the grammar accepts is applied to a small DeepSeek
// model.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "placement/rules.h"

namespace {

kt::io::ModelConfig small_model() {
  kt::io::ModelConfig c;
  c.architecture = "deepseek_v3";
  c.n_layers = 2;
  c.d_model = 64;
  c.d_ff = 64;
  c.n_heads = c.n_kv_heads = 2;
  c.vocab_size = 32;
  c.max_context = 64;
  c.mla = {32, 32, 16, 16, 16};
  c.moe.n_experts = 4;
  c.moe.n_active = 2;
  c.moe.d_ff = 32;
  c.moe.n_shared = 1;
  c.moe.d_ff_shared = 32;
  c.moe.n_dense_layers = 1;
  c.moe.score = kt::io::RouterScore::kSigmoid;
  c.moe.correction_bias = true;
  return c;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const kt::io::ModelConfig config = small_model();
  static const auto catalogue = std::make_shared<kt::operators::Catalogue>();
  try {
    const kt::placement::RuleContext context{config, catalogue, {2, true}, "cpu"};
    const std::string text(reinterpret_cast<const char*>(data), size);
    kt::placement::apply_rules(kt::placement::parse_rules(text, "rules.yaml"), context);
  } catch (const kt::Error& e) {
    if (e.code() != kt::ErrorCode::kBadFile) __builtin_trap();
  }
  return 0;
}
