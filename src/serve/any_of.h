// A descriptor that is readable while one of several is.
//
// Thread rule: one thread at a time.
#pragma once

namespace kt::serve {

class AnyOf {
 public:
  /// Throws kIo.
  AnyOf();
  ~AnyOf();
  AnyOf(const AnyOf&) = delete;
  AnyOf& operator=(const AnyOf&) = delete;
  void add(int descriptor);
  void remove(int descriptor);
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace kt::serve
