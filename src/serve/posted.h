// A reply that is made on a model's own thread, between two of its steps.
//
// Thread rule: on_worker from any thread; what it returns as http::Work.
#pragma once
#include <atomic>
#include <functional>
#include <memory>

#include "serve/http/work.h"
#include "serve/problem.h"
#include "session/worker.h"

namespace kt::serve {

/// Queues `make`; what it throws becomes the protocol's error. `gone` is true once the client is.
/// `headers` are added to the reply's.
std::unique_ptr<http::Work> on_worker(
    session::Worker& worker, Protocol protocol, http::Headers headers,
    std::function<http::Reply(session::Session&, const std::atomic<bool>& gone)> make);

}  // namespace kt::serve
