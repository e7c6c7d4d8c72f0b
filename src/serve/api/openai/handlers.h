// OpenAI's endpoints. Format: OpenAI API 2.3.0.
//
// Thread rule: any thread.
#pragma once
#include "serve/service.h"

namespace kt::serve::openai {

Answer list_models(Service& service, const http::Request& request);
Answer show_model(Service& service, const http::Request& request);
Answer chat(Service& service, const http::Request& request);
Answer embed(Service& service, const http::Request& request);
Answer complete(Service& service, const http::Request& request);

}  // namespace kt::serve::openai
