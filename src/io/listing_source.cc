#include "io/listing_source.h"

#include <algorithm>
#include <charconv>

#include "io/gguf_source.h"
#include "io/names.h"
#include "io/quote.h"
#include "io/tensor_table.h"

namespace kt::io {
namespace {

constexpr std::size_t kMaxListed = std::size_t{1} << 22;

class ListingSource : public WeightSource {
 public:
  ListingSource(const ModelConfig& config, std::vector<TensorInfo> tensors)
      : path_("tensor list"), config_(config) {
    for (TensorInfo& info : tensors) tensors_.add(std::move(info), path_);
  }
  const std::string& path() const override { return path_; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_.all(); }
  const TensorInfo* find(const std::string& name) const override { return tensors_.find(name); }
  void read_rows(const TensorInfo& info, std::int64_t, std::int64_t, std::byte*) const override {
    fail(ErrorCode::kUnsupported, path_, "tensor {} has no data: the model is a list of names only",
         quote(info.name));
  }
  std::optional<tensor::WeightView> map(const TensorInfo&) const override { return std::nullopt; }
  void drop(const TensorInfo&) const override {}

 private:
  std::string path_;
  ModelConfig config_;
  TensorTable tensors_;
};

std::int64_t parse_number(std::string_view text, std::string_view line, const std::string& path) {
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    fail(ErrorCode::kBadFile, path, "line {} has {} where a number is wanted", quote(line),
         quote(text));
  }
  return value;
}

/// Every name that the pattern stands for, first range outermost.
void expand(const std::string& pattern, std::string_view line, const std::string& path,
            std::vector<std::string>* out) {
  const std::size_t open = pattern.find('{');
  if (open == std::string::npos) {
    if (out->size() >= kMaxListed)
      fail(ErrorCode::kBadFile, path, "lists more than {} tensors", kMaxListed);
    out->push_back(pattern);
    return;
  }
  const std::size_t dots = pattern.find("..", open);
  const std::size_t close = pattern.find('}', open);
  if (dots == std::string::npos || close == std::string::npos || close < dots) {
    fail(ErrorCode::kBadFile, path, "line {} has a '{{' that starts no range {{a..b}}",
         quote(line));
  }
  const std::string_view view = pattern;
  const std::int64_t first = parse_number(view.substr(open + 1, dots - open - 1), line, path);
  const std::int64_t last = parse_number(view.substr(dots + 2, close - dots - 2), line, path);
  for (std::int64_t i = first; i <= last; ++i) {
    expand(pattern.substr(0, open) + std::to_string(i) + pattern.substr(close + 1), line, path,
           out);
  }
}

}  // namespace

std::unique_ptr<WeightSource> make_listing_source(const ModelConfig& config,
                                                  std::vector<TensorInfo> tensors) {
  return std::make_unique<ListingSource>(config, std::move(tensors));
}

std::vector<TensorInfo> parse_tensor_list(std::string_view text, const std::string& path) {
  std::vector<TensorInfo> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    std::vector<std::string_view> words;
    for (std::size_t at = 0; at < line.size();) {
      const std::size_t space = std::min(line.find(' ', at), line.size());
      if (space > at) words.push_back(line.substr(at, space - at));
      at = space + 1;
    }
    if (words.empty() || words.size() > 1 + tensor::Shape::kMaxRank) {
      fail(ErrorCode::kBadFile, path, "line {} is not \"name d0 d1 …\"", quote(line));
    }
    TensorInfo info{{}, {}, tensor::Format::kBF16, {}};
    for (std::size_t w = 1; w < words.size(); ++w)
      info.shape.push_back(parse_number(words[w], line, path));
    std::vector<std::string> names;
    expand(std::string(words[0]), line, path, &names);
    for (std::string& name : names) {
      info.name = name;
      info.stored_name = std::move(name);
      out.push_back(info);
    }
  }
  return out;
}

std::vector<TensorInfo> canonical_list(const ModelConfig& config,
                                       const std::vector<TensorInfo>& stored,
                                       const std::string& path) {
  std::vector<TensorInfo> out;
  for (const TensorInfo& info : stored) {
    for (TensorInfo& one :
         canonical_tensors(config, info.stored_name, info.format, info.shape, path)) {
      out.push_back(std::move(one));
    }
  }
  return out;
}

std::vector<TensorInfo> without_ignored(const ModelConfig& config,
                                        const std::vector<TensorInfo>& tensors) {
  std::vector<TensorInfo> out;
  for (const TensorInfo& info : tensors) {
    if (!is_ignored_name(config, info.name)) out.push_back(info);
  }
  return out;
}

}  // namespace kt::io
