#include "session/imatrix.h"

#include <cmath>

#include "base/bytes.h"
#include "io/gguf.h"
#include "io/mmap_file.h"

namespace kt::session {
namespace {

using Entries = std::map<std::string, std::vector<float>>;
using Counts = std::map<std::string, std::vector<float>, std::less<>>;

// A weight must be finite and not negative; anything else means the file is damaged.
void check_values(const std::string& path, const std::string& tensor,
                  const std::vector<float>& values) {
  for (const float v : values) {
    if (std::isfinite(v) && v >= 0.0f) continue;
    fail(ErrorCode::kBadFile, path, "the importance of '{}' holds {}, which is no mean square",
         tensor, v);
  }
}

std::vector<float> read_f32(const io::GgufFile& file, const io::GgufTensor& t) {
  if (t.format != formats::Format::kF32) {
    fail(ErrorCode::kBadFile, file.path(), "tensor '{}' of an importance matrix is not F32",
         t.name);
  }
  std::vector<float> values(static_cast<std::size_t>(t.shape.count()));
  const auto data = file.data(t);
  std::memcpy(values.data(), data.data(), data.size());
  return values;
}

Counts counts_in(const io::GgufFile& file) {
  constexpr std::string_view kCounts = ".counts";
  Counts counts;
  for (const io::GgufTensor& t : file.tensors()) {
    if (t.name.ends_with(kCounts))
      counts.emplace(t.name.substr(0, t.name.size() - kCounts.size()), read_f32(file, t));
  }
  return counts;
}

Entries read_gguf(const std::string& path) {
  const io::GgufFile file = io::GgufFile::open(path);
  constexpr std::string_view kSums = ".in_sum2";
  const Counts counts = counts_in(file);
  Entries entries;
  for (const io::GgufTensor& t : file.tensors()) {
    if (!t.name.ends_with(kSums)) continue;
    const std::string name(t.name.substr(0, t.name.size() - kSums.size()));
    std::vector<float> values = read_f32(file, t);
    const auto count = counts.find(name);
    if (count == counts.end() || count->second.empty() ||
        values.size() % count->second.size() != 0) {
      fail(ErrorCode::kBadFile, path, "the importance matrix has no usable counts for '{}'", name);
    }
    const std::size_t per_count = values.size() / count->second.size();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float n = count->second[i / per_count];
      values[i] = n > 0.0f ? values[i] / n : 1.0f;
    }
    check_values(path, name, values);
    entries.emplace(name, std::move(values));
  }
  return entries;
}

// n_entries, then per entry: name length, name, n_calls, n_values, values (sums over calls).
Entries read_legacy(const std::string& path, std::span<const std::byte> bytes) {
  ByteReader in(bytes, path);
  Entries entries;
  const auto n = in.read<std::int32_t>("the number of entries");
  for (std::int32_t i = 0; i < n; ++i) {
    const auto name_length = in.read<std::int32_t>("a name's length");
    if (name_length <= 0)
      fail(ErrorCode::kBadFile, path, "entry {} has a name of {} bytes", i, name_length);
    const auto name = in.take(static_cast<std::uint64_t>(name_length), "a name");
    const auto n_calls = in.read<std::int32_t>("the number of calls");
    const auto n_values = in.read<std::int32_t>("the number of values");
    if (n_values <= 0) fail(ErrorCode::kBadFile, path, "entry {} has {} values", i, n_values);
    const auto data = in.take(static_cast<std::uint64_t>(n_values) * sizeof(float), "values");
    std::vector<float> values(static_cast<std::size_t>(n_values));
    std::memcpy(values.data(), data.data(), data.size());
    for (float& v : values) v = n_calls > 0 ? v / static_cast<float>(n_calls) : 1.0f;
    const std::string key(reinterpret_cast<const char*>(name.data()), name.size());
    check_values(path, key, values);
    entries.emplace(key, std::move(values));
  }
  return entries;
}

}  // namespace

Counts read_counts(const std::string& path) { return counts_in(io::GgufFile::open(path)); }

ImportanceMatrix ImportanceMatrix::open(const std::string& path) {
  const io::MmapFile file(path);
  const auto bytes = file.bytes();
  ImportanceMatrix matrix;
  matrix.entries_ = io::is_gguf(bytes) ? read_gguf(path) : read_legacy(path, bytes);
  if (matrix.entries_.empty())
    fail(ErrorCode::kBadFile, path, "this file holds no importance matrix");
  return matrix;
}

const float* ImportanceMatrix::find(const std::string& tensor, std::int64_t expert,
                                    std::int64_t n_cols) const {
  const auto it = entries_.find(tensor);
  if (it == entries_.end()) return nullptr;
  const auto size = static_cast<std::int64_t>(it->second.size());
  if (size == n_cols) return it->second.data();
  if (expert >= 0 && size % n_cols == 0 && expert < size / n_cols)
    return it->second.data() + expert * n_cols;
  return nullptr;
}

}  // namespace kt::session
