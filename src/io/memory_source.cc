#include "io/memory_source.h"

#include <cstring>

namespace kt::io {

void MemorySource::add(const std::string& name, const tensor::WeightView& view) {
  tensors_.add({name, name, view.format, view.shape}, path_);
  views_.push_back(view);
}

void MemorySource::read_rows(const TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                             std::byte* out) const {
  const tensor::WeightView& view = views_[tensors_.index_of(info, path_)];
  KT_CHECK(row >= 0 && n_rows >= 0 && row + n_rows <= view.shape.n_rows());
  std::memcpy(out, view.row(row), view.row_bytes() * static_cast<std::size_t>(n_rows));
}

std::optional<tensor::WeightView> MemorySource::map(const TensorInfo& info) const {
  return views_[tensors_.index_of(info, path_)];
}

}  // namespace kt::io
