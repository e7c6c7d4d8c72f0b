#include "session/choices.h"

#include <set>

namespace kt::session {

backend::ActPolicy act_policy(const std::string& name) {
  if (name == "q8") return backend::ActPolicy::kQ8;
  if (name == "q16") return backend::ActPolicy::kQ16;
  if (name == "f32") return backend::ActPolicy::kF32;
  fail(ErrorCode::kUsage, "--act", "'{}' is not an activation type; use q8, q16 or f32", name);
}

tensor::Format kv_format(const std::string& name) {
  const auto format = formats::from_name(name);
  const std::set<std::string> known = {"f32", "f16", "bf16", "f8_e4m3", "q8_0"};
  if (!format || !known.contains(name)) {
    fail(ErrorCode::kUsage, "--kv", "'{}' is not a cache type; use f32, f16, bf16, f8_e4m3 or q8_0",
         name);
  }
  return *format;
}

operators::StreamExperts stream_experts(const std::string& name) {
  if (name == "auto") return operators::StreamExperts::kAuto;
  if (name == "on") return operators::StreamExperts::kOn;
  if (name == "off") return operators::StreamExperts::kOff;
  fail(ErrorCode::kUsage, "--stream-experts", "'{}' is not known; use auto, on or off", name);
}

operators::ExpertCacheMode expert_cache(const std::string& name) {
  if (name == "auto") return operators::ExpertCacheMode::kAuto;
  if (name == "fixed") return operators::ExpertCacheMode::kFixed;
  if (name == "off") return operators::ExpertCacheMode::kOff;
  fail(ErrorCode::kUsage, "--expert-cache", "'{}' is not known; use auto, fixed or off", name);
}

bool looks_up_prompt(const std::string& name) {
  if (name == "none" || name == "prompt-lookup") return name != "none";
  fail(ErrorCode::kUsage, "--speculate", "'{}' is no way to speculate; use none or prompt-lookup",
       name);
}

}  // namespace kt::session
