// Bump allocator for the temporaries of one step. reset() keeps the memory, so that steps after the
// first of their size allocate nothing from the system. Thread rule: one thread allocates (the one
// that walks the tree); the memory may be used by all.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace kt::tensor {

class Arena {
 public:
  /// 64-byte aligned, uninitialised, valid until reset() or release(mark).
  template <class T>
  T* allocate(std::int64_t count) {
    return static_cast<T*>(allocate_bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }
  MatrixF matrix(std::int64_t n_rows, std::int64_t n_cols) {
    return {allocate<float>(n_rows * n_cols), n_rows, n_cols, n_cols};
  }
  void reset();
  std::size_t mark() const { return used_; }
  /// Gives back everything allocated since mark().
  void release(std::size_t mark) { used_ = mark; }
  /// Bytes held from the system.
  std::size_t capacity() const;

 private:
  void* allocate_bytes(std::size_t bytes);
  std::vector<Buffer> chunks_;
  std::vector<std::size_t> starts_;  // offset of each chunk in the arena's address space
  std::size_t used_ = 0;
};

}  // namespace kt::tensor
