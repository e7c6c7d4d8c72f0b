// OpenAI's Responses endpoints, as far as they need no memory of earlier requests.
//
// Thread rule: any thread.
#pragma once
#include "serve/service.h"

namespace kt::serve::openai {

Answer respond(Service& service, const http::Request& request);
Answer count_response_input(Service& service, const http::Request& request);

}  // namespace kt::serve::openai
