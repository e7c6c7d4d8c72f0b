// Anthropic's Messages endpoints.
//
// Thread rule: any thread.
#pragma once
#include "serve/service.h"

namespace kt::serve::anthropic {

Answer messages(Service& service, const http::Request& request);
Answer count_tokens(Service& service, const http::Request& request);

}  // namespace kt::serve::anthropic
