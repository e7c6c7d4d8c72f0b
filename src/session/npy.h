// NumPy's .npy format, version 1.0: float matrices written row by row.
// Thread rule: one thread.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "io/atomic_file.h"

namespace kt::session {

class NpyWriter {
 public:
  /// Throws kIo. The file appears at `path` when finish() is called.
  NpyWriter(const std::string& path, std::int64_t n_rows, std::int64_t n_cols);
  void append(std::span<const float> row);
  void finish();

 private:
  io::AtomicFile file_;
};

}  // namespace kt::session
