#include "io/tensor_table.h"

#include "io/quote.h"

namespace kt::io {

void TensorTable::add(TensorInfo info, const std::string& path) {
  const auto [found, is_new] = index_.emplace(info.name, infos_.size());
  if (!is_new) {
    fail(ErrorCode::kBadFile, path, "tensors {} and {} are both {}",
         quote(infos_[found->second].stored_name), quote(info.stored_name), quote(info.name));
  }
  infos_.push_back(std::move(info));
}

const TensorInfo* TensorTable::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &infos_[found->second];
}

std::size_t TensorTable::index_of(const TensorInfo& info, const std::string& path) const {
  const auto found = index_.find(info.name);
  if (found == index_.end()) fail(ErrorCode::kNotFound, path, "has no tensor {}", quote(info.name));
  return found->second;
}

}  // namespace kt::io
