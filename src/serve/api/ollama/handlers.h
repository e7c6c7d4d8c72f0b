// Ollama's endpoints: generation (handlers.cc), which models there are (library.cc). Format: ollama
// docs/api.md, August 2026.
//
// Thread rule: any thread.
#pragma once
#include "serve/service.h"

namespace kt::serve::ollama {

Answer root(Service& service, const http::Request& request);
Answer version(Service& service, const http::Request& request);
Answer tags(Service& service, const http::Request& request);
Answer ps(Service& service, const http::Request& request);
Answer show(Service& service, const http::Request& request);
Answer generate(Service& service, const http::Request& request);
Answer chat(Service& service, const http::Request& request);
Answer embed(Service& service, const http::Request& request);
Answer pull(Service& service, const http::Request& request);
Answer create(Service& service, const http::Request& request);
Answer copy(Service& service, const http::Request& request);
Answer remove(Service& service, const http::Request& request);
Answer refuse_files(Service& service, const http::Request& request);
Answer find_blob(Service& service, const http::Request& request);

}  // namespace kt::serve::ollama
