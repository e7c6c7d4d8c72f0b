// What a module will hold in memory, told from headers before anything is loaded: its operator
// knows, and the planner counts.
//
//   weights()  →  [operator: recode, transpose, split by head]  →  matrices, vectors as floats
//
// Thread rule: values.
#pragma once
#include <cstdint>
#include <vector>

#include "operators/loader.h"

namespace kt::operators {

/// A weight matrix in memory, `count` times.
struct KeptMatrix {
  tensor::Format format{};
  tensor::Format stored{};  // in the file
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t count = 1;
  /// Rows that are read in one go before the next of another matrix; 0: all of a thread's share.
  std::int64_t piece_rows = 0;
  backend::WeightScales scales = backend::WeightScales::kOfBlocks;
  double weights() const { return static_cast<double>(n) * static_cast<double>(k * count); }
};

struct Kept {
  std::vector<KeptMatrix> matrices;  // equal ones counted together, in order of first sight
  std::uint64_t vector_bytes = 0;    // as floats
  std::uint64_t file_bytes = 0;      // read of the file

  void add(const KeptMatrix& matrix);
  /// A whole tensor: a matrix recoded, or a vector. Throws as require_tensor.
  void add(const io::WeightSource& source, const WeightSpec& spec, const Recode& recode = {});
  void count_file(const io::TensorInfo& info);
};

}  // namespace kt::operators
