// An answer that another thread makes, and the Work that waits for it.
//
//   maker: set once      server: Work::descriptor → advance → the Reply, or the Work that follows
//
// Thread rule: any thread.
#pragma once
#include <memory>
#include <mutex>
#include <optional>

#include "serve/http/work.h"

namespace kt::serve {

class Pending {
 public:
  /// Throws kIo.
  Pending();
  ~Pending();
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  /// What comes after the first is dropped, and so is all when the client is gone.
  void set(http::Answer answer);
  /// Whether nobody waits for it any more.
  bool gone() const;

 private:
  friend class PendingWork;
  const int event_;
  mutable std::mutex mutex_;
  std::optional<http::Answer> answer_;
  bool set_ = false;
  bool gone_ = false;
};

std::unique_ptr<http::Work> wait_for(std::shared_ptr<Pending> pending);

}  // namespace kt::serve
