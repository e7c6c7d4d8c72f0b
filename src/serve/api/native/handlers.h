// Endpoints of our own, named as other local servers name them: health, tokens, templates, state.
//
// Thread rule: any thread.
#pragma once
#include "serve/service.h"

namespace kt::serve::native {

Answer health(Service& service, const http::Request& request);
Answer metrics(Service& service, const http::Request& request);
Answer props(Service& service, const http::Request& request);
Answer slots(Service& service, const http::Request& request);
Answer placement(Service& service, const http::Request& request);
Answer tokenize(Service& service, const http::Request& request);
Answer detokenize(Service& service, const http::Request& request);
Answer apply_template(Service& service, const http::Request& request);

}  // namespace kt::serve::native
