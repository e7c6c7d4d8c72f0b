// The tensors of a source in file order, found by name; what every WeightSource keeps. A source
// holds where tensor i lies in a list of its own.
// Thread rule: const methods may run from any thread.
#pragma once
#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/weight_source.h"

namespace kt::io {

class TensorTable {
 public:
  /// Throws kBadFile naming `path` and both stored tensors when the name is taken.
  void add(TensorInfo info, const std::string& path);
  const std::vector<TensorInfo>& all() const { return infos_; }
  const TensorInfo* find(const std::string& name) const;
  /// Index in all(). Throws kNotFound, naming `path`.
  std::size_t index_of(const TensorInfo& info, const std::string& path) const;

 private:
  std::vector<TensorInfo> infos_;
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace kt::io
