// The chat page's files, as they were built into the program. It runs no script but its own, and
// asks no other host.
//
// Thread rule: any thread.
#pragma once
#include "serve/service.h"

namespace kt::serve::page {

/// `/`, `/web/` and what lies below them.
Answer file(Service& service, const http::Request& request);
/// `/web` → `/web/`: the page's addresses are relative.
Answer redirect(Service& service, const http::Request& request);

}  // namespace kt::serve::page
