// How the server ends connections without knowing their kind. Private to http/.
//
// Thread rule: any thread.
#pragma once

namespace kt::serve::http {

class ConnectionControl {
 public:
  virtual ~ConnectionControl() = default;
  /// Closes now when no request is in progress, else after its reply.
  virtual void stop_when_idle() = 0;
  /// Closes now.
  virtual void abort() = 0;
};

}  // namespace kt::serve::http
