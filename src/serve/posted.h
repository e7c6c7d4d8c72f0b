// Replies that are made on a model's own thread, between two of its steps.
//
//   short: Worker::post → make → reply        long: Worker::enqueue → part, part, … → make → reply
//
// Thread rule: any thread.
#pragma once
#include <functional>
#include <memory>

#include "serve/http/work.h"
#include "serve/pool.h"
#include "serve/problem.h"
#include "serve/served_model.h"

namespace kt::serve {

/// Whose reply it is. The model stays open until it is made.
struct PostedFor {
  std::shared_ptr<ServedModel> model;
  Protocol protocol;
  std::function<http::Reply(http::Reply)> finish;  // called once with every reply, 499 if unread
};

/// What `make` throws becomes the protocol's error.
std::unique_ptr<http::Work> between_steps(PostedFor whose,
                                          std::function<http::Reply(session::Session&)> make);

/// `part` does some of it and returns whether there is more; `make` runs on the pool at last.
/// Throws session::QueueFull.
std::unique_ptr<http::Work> in_parts(PostedFor whose, std::shared_ptr<Pool> pool,
                                     std::function<bool(session::Session&)> part,
                                     std::function<http::Reply()> make);

}  // namespace kt::serve
