// Names of command-line choices (--act, --kv, …) as the types they stand for, with an error that
// lists the choices for any other word.
// Thread rule: pure.
#pragma once
#include <string>

#include "backend/cpu/cpu.h"
#include "operators/placement.h"
#include "tensor/tensor.h"

namespace kt::session {

/// "q8", "q16", "f32". Throws kUsage.
backend::ActPolicy act_policy(const std::string& name);
/// "f32", "f16", "bf16", "q8_0". Throws kUsage.
tensor::Format kv_format(const std::string& name);
/// "auto", "on", "off". Throws kUsage.
operators::StreamExperts stream_experts(const std::string& name);
/// "auto", "fixed", "off". Throws kUsage.
operators::ExpertCacheMode expert_cache(const std::string& name);
/// Whether "prompt-lookup" is said rather than "none". Throws kUsage.
bool looks_up_prompt(const std::string& name);

}  // namespace kt::session
