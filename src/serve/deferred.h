// A reply to a request whose model is still being opened for it: tries again until it is.
//
// Thread rule: one thread at a time.
#pragma once
#include <functional>
#include <memory>
#include <variant>

#include "serve/http/work.h"
#include "serve/problem.h"

namespace kt::serve {

/// What answers; null while the model is not open yet.
using Attempt =
    std::function<std::unique_ptr<std::variant<http::Reply, std::unique_ptr<http::Work>>>()>;

std::unique_ptr<http::Work> defer(Attempt attempt);

}  // namespace kt::serve
