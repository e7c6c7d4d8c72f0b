// Importance matrices: per input column of a weight matrix, the mean squared activation seen there,
// which the quantiser weights its errors with. Reads the GGUF form ("<tensor>.in_sum2",
// "<tensor>.counts") and the older binary form (.dat). Thread rule: const after open().
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace kt::session {

/// How often matrices were used: tensor → one count, or one for each expert. Of the GGUF form;
/// throws kNotFound, kBadFile.
std::map<std::string, std::vector<float>, std::less<>> read_counts(const std::string& path);

class ImportanceMatrix {
 public:
  ImportanceMatrix() = default;
  /// Throws kNotFound, kBadFile.
  static ImportanceMatrix open(const std::string& path);
  bool empty() const { return entries_.empty(); }
  /// n_cols weights for this tensor (of expert `expert` when the matrix has one row per expert), or
  /// null when there are none or their number does not fit.
  const float* find(const std::string& tensor, std::int64_t expert, std::int64_t n_cols) const;

 private:
  std::map<std::string, std::vector<float>> entries_;
};

}  // namespace kt::session
