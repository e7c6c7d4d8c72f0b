#include "operators/kept.h"

namespace kt::operators {

void Kept::add(const KeptMatrix& matrix) {
  for (KeptMatrix& m : matrices) {
    if (m.format != matrix.format || m.stored != matrix.stored || m.n != matrix.n ||
        m.k != matrix.k || m.piece_rows != matrix.piece_rows || m.scales != matrix.scales) {
      continue;
    }
    m.count += matrix.count;
    return;
  }
  matrices.push_back(matrix);
}

void Kept::add(const io::WeightSource& source, const WeightSpec& spec, const Recode& recode) {
  const io::TensorInfo& info = require_tensor(source, spec);
  count_file(info);
  if (spec.shape.rank() < 2) {
    vector_bytes += static_cast<std::uint64_t>(spec.shape.count()) * sizeof(float);
    return;
  }
  add({.format = recode.target(info.format),
       .stored = info.format,
       .n = info.shape.n_rows(),
       .k = info.shape.n_cols(),
       .scales = recode.scales()});
}

void Kept::count_file(const io::TensorInfo& info) {
  file_bytes += formats::row_bytes(info.format, info.shape.n_cols()) *
                static_cast<std::uint64_t>(info.shape.n_rows());
}

}  // namespace kt::operators
