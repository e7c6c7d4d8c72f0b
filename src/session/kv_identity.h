// What key/value rows depend on besides the tokens, as a text to hash: caches that outlive the
// process are valid for exactly this.
// Thread rule: pure.
#pragma once
#include <memory>
#include <span>
#include <string>

#include "session/session.h"

namespace kt::session {

/// What computes: the steps that prompts are cut into, and the GPUs in use.
struct KvMachine {
  std::int64_t chunk_size = 0;
  std::span<const std::unique_ptr<backend::Gpu>> gpus;
};

/// The files of the model and of plug-ins, that of GPUs too (paths, sizes, times), the build of
/// this program, CPU and GPU features, numeric policy, rows of a step, cache format and what runs
/// where. Throws kIo.
std::string kv_identity(Session& session, const Options& options, const KvMachine& machine);

}  // namespace kt::session
