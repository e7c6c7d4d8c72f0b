#include "session/bench/cases.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "base/suggest.h"
#include "base/utf8.h"
#include "placement/regex.h"
#include "tensor/kv_view.h"

namespace kt::session::bench {
namespace {

using operators::Recode;

constexpr std::int64_t kMaxSize = std::int64_t{1} << 20;

std::optional<std::int64_t> whole(std::string_view text, std::int64_t most) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > most)
    return std::nullopt;
  return value;
}

// "DxF:E:A".
std::optional<LayerShape> custom_shape(const std::string& text) {
  static constexpr std::string_view kSeparators = "x::";
  std::string_view rest = text;
  std::int64_t numbers[4] = {};
  for (std::size_t i = 0; i < 4; ++i) {
    const std::size_t end = i < 3 ? rest.find(kSeparators[i]) : rest.size();
    if (end == std::string_view::npos) return std::nullopt;
    const auto value = whole(rest.substr(0, end), kMaxSize);
    if (!value) return std::nullopt;
    numbers[i] = *value;
    rest.remove_prefix(std::min(rest.size(), end + 1));
  }
  if (numbers[3] > numbers[2]) return std::nullopt;
  return LayerShape{text, numbers[0], numbers[1], numbers[2], numbers[3]};
}

// The names that a regular expression is found in, letters of any case.
class Filter {
 public:
  explicit Filter(const std::string& text) try : regex_(text, nullptr, true) {
  } catch (const Error& e) {
    fail(ErrorCode::kUsage, "--kernels", "{}", e.what());
  }
  bool operator()(const std::string& name) {
    try {
      return regex_.search(name, budget_);
    } catch (const Error& e) {
      fail(ErrorCode::kUsage, "--kernels", "{}", e.what());
    }
  }

 private:
  placement::Regex regex_;
  std::int64_t budget_ = 10'000'000;
};

// Layers of the formats asked for must fit their shapes; of the default ones those count that do.
void add_layers(const std::vector<LayerFormat>& wanted, const std::vector<LayerShape>& shapes,
                Filter& filter, std::vector<Case>* cases) {
  std::vector<LayerFormat> formats = wanted;
  if (formats.empty()) formats = {parse_format("q4_k"), parse_format("q8_0"), parse_format("bf16")};
  for (const LayerShape& shape : shapes) {
    for (const LayerFormat& format : formats) {
      Case c{nullptr, format, shape};
      if (!filter(c.name())) continue;
      const std::int64_t block = formats::traits(format.recode.target(format.stored)).block_len;
      if (shape.d_model % block == 0 && shape.d_ff % block == 0) {
        cases->push_back(std::move(c));
      } else if (!wanted.empty()) {
        fail(ErrorCode::kUsage, "--shapes",
             "the widths of '{}' do not divide into the blocks of {} weights that {} uses",
             shape.name, block, format.name);
      }
    }
  }
}

// In the formats asked for that a cache can have, at two contexts.
void add_attention(const std::vector<LayerFormat>& wanted, const std::vector<LayerShape>& shapes,
                   Filter& filter, std::vector<Case>* cases) {
  std::vector<LayerFormat> formats = wanted;
  if (formats.empty()) {
    for (const char* name : {"f16", "bf16", "f8_e4m3", "q8_0"})
      formats.push_back(parse_format(name));
  }
  for (const LayerShape& shape : shapes) {
    for (const LayerFormat& format : formats) {
      for (const std::int64_t context : {2048, 8192}) {
        Case c{nullptr, format, shape, context};
        if (shape.attention.n_heads != 0 && format.backend.empty() &&
            tensor::cache_format_fits(format.stored, shape.attention.dim_qk) && filter(c.name()))
          cases->push_back(std::move(c));
      }
    }
  }
}

// Each row on each matrix once, however many shapes have it.
void add_rows(const std::vector<LayerFormat>& wanted, const std::vector<LayerShape>& shapes,
              CpuCaps caps, bool with_ref, Filter& filter, std::vector<Case>* cases) {
  std::set<std::pair<const kernels::dot::Kernel*, std::pair<std::int64_t, std::int64_t>>> seen;
  for (const kernels::dot::Kernel& row : kernels::dot::kernels()) {
    const bool runs = (caps & row.caps) == row.caps && (row.caps != 0 || with_ref);
    const bool chosen =
        wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](const LayerFormat& f) {
          return f.backend.empty() && f.stored == row.weight;
        });
    if (!runs || !chosen || formats::traits(row.weight).encode == nullptr) continue;
    const std::string name = ascii_lower(formats::traits(row.weight).name);
    for (const LayerShape& shape : shapes) {
      Case c{&row, {name, row.weight, {}, {}}, shape};
      const bool fits = shape.d_model % row.k_step == 0;
      if (fits && seen.insert({&row, {shape.d_ff, shape.d_model}}).second && filter(c.name()))
        cases->push_back(std::move(c));
    }
  }
}

}  // namespace

std::span<const LayerShape> layer_shapes() {
  static const std::vector<LayerShape> shapes = {
#define SHAPE(name, d_model, d_ff, n_experts, n_active, n_heads, n_kv_heads, dim_qk, dim_v) \
  {name, d_model, d_ff, n_experts, n_active, {n_heads, n_kv_heads, dim_qk, dim_v}},
#include "session/bench/shapes.inc"
#undef SHAPE
  };
  return shapes;
}

LayerShape parse_shape(const std::string& text) {
  std::vector<std::string> names;
  for (const LayerShape& shape : layer_shapes()) {
    if (shape.name == text) return shape;
    names.push_back(shape.name);
  }
  if (const auto custom = custom_shape(text)) return *custom;
  const auto near = nearest(text, names);
  std::string known;
  for (const std::string& name : names) known += name + ", ";
  fail(ErrorCode::kUsage, "--shapes",
       "'{}' is unknown{}; known are {}or D_MODELxD_FF:EXPERTS:ACTIVE (from 1 to {}, ACTIVE not "
       "above "
       "EXPERTS)",
       text, near ? fmt::format("; did you mean {}?", *near) : std::string(), known, kMaxSize);
}

LayerFormat parse_format(const std::string& text) {
  const std::string name = ascii_lower(text);
  if (name == "int8")
    return {name, formats::Format::kBF16, "AMXInt8", {Recode::Kind::kGroup, 8, -1}};
  if (name == "int4")
    return {name, formats::Format::kBF16, "AMXInt4", {Recode::Kind::kGroup, 4, -1}};
  const auto format = formats::from_name(name);
  if (!format || formats::traits(*format).encode == nullptr) {
    fail(ErrorCode::kUsage, "--formats",
         "'{}' is not a weight format; a list such as q4_k,q8_0,bf16,int8 is wanted", text);
  }
  return {name, *format, {}, {}};
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

std::vector<std::int64_t> parse_sizes(const std::string& flag, const std::string& text) {
  std::set<std::int64_t> sizes;
  for (const std::string& word : split_list(text)) {
    const std::size_t at = word.find_first_of("-:");
    const auto first = whole(std::string_view(word).substr(0, at), kMaxSize);
    const auto last =
        at == std::string::npos ? first : whole(std::string_view(word).substr(at + 1), kMaxSize);
    if (!first || !last || *last < *first) {
      fail(
          ErrorCode::kUsage, flag,
          "'{}' is no size from 1 to {}; a list such as 1,2,8-16,64:512 is wanted (all of 8 to 16; "
          "64, 128, 256, 512)",
          word, kMaxSize);
    }
    const bool doubling = at != std::string::npos && word[at] == ':';
    for (std::int64_t n = *first; n <= *last; n = doubling ? 2 * n : n + 1) sizes.insert(n);
  }
  if (sizes.empty()) fail(ErrorCode::kUsage, flag, "the list is empty");
  return {sizes.begin(), sizes.end()};
}

std::string Case::name() const {
  if (context != 0) return fmt::format("attention {} {} {}", format.name, shape.name, context);
  return kernel != nullptr ? fmt::format("{} {}", kernel->name, shape.name)
                           : fmt::format("moe {} {}", format.name, shape.name);
}

std::vector<Case> select_cases(const Selection& selection, CpuCaps caps) {
  Filter filter(selection.filter);
  std::vector<LayerShape> shapes;
  for (const std::string& name : selection.shapes) shapes.push_back(parse_shape(name));
  if (shapes.empty()) shapes.push_back(parse_shape("qwen3-30b"));
  std::vector<LayerFormat> wanted;
  for (const std::string& name : selection.formats) wanted.push_back(parse_format(name));
  std::vector<Case> cases;
  add_layers(wanted, shapes, filter, &cases);
  add_attention(wanted, shapes, filter, &cases);
  const bool with_ref = caps == 0 || selection.filter.find("ref") != std::string::npos;
  add_rows(wanted, shapes, caps, with_ref, filter, &cases);
  if (cases.empty()) {
    fail(ErrorCode::kUsage, "--kernels", "'{}' matches none of the kernels and layers",
         selection.filter);
  }
  return cases;
}

}  // namespace kt::session::bench
