#include "serve/routes.h"

#include "serve/api/anthropic/handlers.h"
#include "serve/api/native/handlers.h"
#include "serve/api/ollama/handlers.h"
#include "serve/api/openai/handlers.h"
#include "serve/api/openai/responses.h"
#include "serve/api/page/handlers.h"

namespace kt::serve {

std::span<const Route> routes() {
  static constexpr Route kRoutes[] = {
#define ROUTE(method, path, handler, open) {method, path, handler, open},
#include "serve/routes.inc"
#undef ROUTE
  };
  return kRoutes;
}

}  // namespace kt::serve
