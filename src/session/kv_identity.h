// What key/value rows depend on besides the tokens, as a text to hash: caches that outlive the
// process are valid for exactly this.
// Thread rule: pure.
#pragma once
#include <string>

#include "session/session.h"

namespace kt::session {

/// The files of the model and of plug-ins (paths, sizes, times), the build of this program, CPU
/// features, numeric policy, cache format and what runs where. Throws kIo.
std::string kv_identity(Session& session, const Options& options);

}  // namespace kt::session
