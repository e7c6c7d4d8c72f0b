// Paths of modules seen by layer: taken apart at the layer's number, and things of equal layers
// merged into one.
//
//   model.layers.7.mlp  →  before "model.layers.", number 7, after ".mlp"
//
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace kt::placement {

struct LayerPath {
  std::string_view before;  // the whole path when it is outside the layers
  std::int64_t number = -1;
  std::string_view after;
  /// The path with `numbers` in the number's place; as it was outside the layers.
  std::string with(std::string_view numbers) const;
};

/// Views into `path`.
LayerPath split_layer(std::string_view path);

/// {0, 1, 2, 5} → "{0-2,5}"; a single number stays plain. Ascending.
std::string layer_ranges(const std::vector<std::int64_t>& numbers);

/// Values of modules that differ in their layer only, in order of first sight.
template <class T>
class LayerGroups {
 public:
  struct Group {
    std::string path;  // of the first module
    T value;
    std::vector<std::int64_t> layers;
  };
  /// The value of the group of this path and key; `fresh` begins a group.
  T& at(const std::string& path, const std::string& key, T fresh) {
    const LayerPath parts = split_layer(path);
    const auto [it, is_new] = index_.emplace(parts.with("#") + '\n' + key, groups_.size());
    if (is_new) groups_.push_back({path, std::move(fresh), {}});
    Group& group = groups_[it->second];
    if (parts.number >= 0) group.layers.push_back(parts.number);
    return group.value;
  }
  const std::vector<Group>& groups() const { return groups_; }

 private:
  std::vector<Group> groups_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace kt::placement
