#include "placement/layer_path.h"

#include <algorithm>

namespace kt::placement {

std::string LayerPath::with(std::string_view numbers) const {
  if (number < 0) return std::string(before);
  return std::string(before).append(numbers).append(after);
}

LayerPath split_layer(std::string_view path) {
  constexpr std::string_view kLayers = "layers.";
  constexpr std::size_t kMaxDigits = 9;
  const auto at = path.find(kLayers);
  if (at == std::string_view::npos) return {path, -1, {}};
  const auto begin = at + kLayers.size();
  const auto end = std::min(path.find_first_not_of("0123456789", begin), path.size());
  if (end == begin || end - begin > kMaxDigits) return {path, -1, {}};
  std::int64_t number = 0;
  for (const char c : path.substr(begin, end - begin)) number = number * 10 + (c - '0');
  return {path.substr(0, begin), number, path.substr(end)};
}

std::string layer_ranges(const std::vector<std::int64_t>& numbers) {
  if (numbers.size() == 1) return std::to_string(numbers.front());
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[i]);
    if (j > i) text += "-" + std::to_string(numbers[j]);
    i = j + 1;
  }
  return "{" + text + "}";
}

}  // namespace kt::placement
