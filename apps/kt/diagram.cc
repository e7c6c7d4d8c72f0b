#include "diagram.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "print.h"

namespace kt::app {
namespace {

struct Row {
  std::string name;  // indented
  std::string kind;
  std::string op;
  std::string shape;
  std::set<std::string> formats;
  double bytes = 0.0;
  bool same_shape(const Row& other) const {
    return name == other.name && kind == other.kind && op == other.op && shape == other.shape;
  }
};

struct Block {
  std::string title;  // path, or the folder of folded layers
  std::int64_t first_layer = -1;
  std::int64_t last_layer = -1;
  std::vector<Row> rows;
};

double stored_bytes(const io::TensorInfo& info) {
  return static_cast<double>(formats::row_bytes(info.format, info.shape.n_cols())) *
         static_cast<double>(info.shape.n_rows());
}

std::string last_part(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? path : path.substr(dot + 1);
}

/// "[512, 256]", or "32 × [256, 512] + 16 × [512, 256]" for many tensors.
std::string shapes_of(const std::vector<operators::WeightSpec>& specs) {
  std::vector<std::pair<std::string, int>> counts;
  for (const operators::WeightSpec& spec : specs) {
    const std::string shape = spec.shape.to_string();
    const auto it =
        std::find_if(counts.begin(), counts.end(), [&](const auto& c) { return c.first == shape; });
    if (it == counts.end()) {
      counts.emplace_back(shape, 1);
    } else {
      ++it->second;
    }
  }
  std::string text;
  for (const auto& [shape, count] : counts) {
    text +=
        (text.empty() ? "" : " + ") + (count == 1 ? shape : fmt::format("{} × {}", count, shape));
  }
  return text;
}

Row row_of(const operators::Module& module, const io::WeightSource& source, int depth) {
  Row row;
  row.name = std::string(static_cast<std::size_t>(2 * depth), ' ') + last_part(module.path());
  row.kind = module.kind();
  row.op = module.op();
  const std::vector<operators::WeightSpec> specs = module.weights();
  row.shape = shapes_of(specs);
  for (const operators::WeightSpec& spec : specs) {
    const io::TensorInfo* info = source.find(spec.name);
    if (info == nullptr) continue;
    row.formats.insert(std::string(formats::traits(info->format).name));
    row.bytes += stored_bytes(*info);
  }
  return row;
}

void add_rows(const operators::Module& module, const io::WeightSource& source, int depth,
              std::vector<Row>* rows) {
  rows->push_back(row_of(module, source, depth));
  for (const operators::Module* child : module.children())
    add_rows(*child, source, depth + 1, rows);
}

std::int64_t layer_index(const std::string& path) {
  const std::string part = last_part(path);
  if (part.empty() || part.size() > 6 || part.find_first_not_of("0123456789") != std::string::npos)
    return -1;
  return std::stoll(part);
}

Block layer_block(const operators::Module& layer, const io::WeightSource& source) {
  Block block;
  block.title = layer.path().substr(0, layer.path().rfind('.'));
  block.first_layer = block.last_layer = layer_index(layer.path());
  for (const operators::Module* child : layer.children()) {
    add_rows(*child, source, 0, &block.rows);
    const std::string_view kind = child->kind();
    if (kind == "Attention" || kind == "Mlp" || kind == "Moe") {
      block.rows.push_back({"(+) residual", "", "", "", {}, 0.0});
    }
  }
  return block;
}

bool foldable(const Block& a, const Block& b) {
  return a.first_layer >= 0 && b.first_layer == a.last_layer + 1 && a.title == b.title &&
         std::equal(a.rows.begin(), a.rows.end(), b.rows.begin(), b.rows.end(),
                    [](const Row& x, const Row& y) { return x.same_shape(y); });
}

void add_block(Block block, std::vector<Block>* blocks) {
  if (!blocks->empty() && foldable(blocks->back(), block)) {
    Block& into = blocks->back();
    into.last_layer = block.last_layer;
    for (std::size_t i = 0; i < into.rows.size(); ++i) {
      into.rows[i].bytes += block.rows[i].bytes;
      into.rows[i].formats.insert(block.rows[i].formats.begin(), block.rows[i].formats.end());
    }
    return;
  }
  blocks->push_back(std::move(block));
}

void collect(const operators::Module& module, const io::WeightSource& source,
             std::vector<Block>* blocks) {
  if (module.kind() == "DecoderLayer") {
    add_block(layer_block(module, source), blocks);
    return;
  }
  if (module.children().empty()) {
    if (module.weights().empty()) return;  // rotary tables: no step on the way of the data
    Block block;
    block.title = module.path();
    block.rows.push_back(row_of(module, source, 0));
    blocks->push_back(std::move(block));
    return;
  }
  for (const operators::Module* child : module.children()) collect(*child, source, blocks);
}

std::string title_of(const Block& block) {
  if (block.first_layer < 0) return block.title;
  if (block.first_layer == block.last_layer)
    return fmt::format("{}.{}", block.title, block.first_layer);
  return fmt::format("{}.{{{}-{}}}, {} layers", block.title, block.first_layer, block.last_layer,
                     block.last_layer - block.first_layer + 1);
}

std::string joined(const std::set<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : "/") + word;
  return out;
}

std::string repeat(const char* text, std::size_t n) {
  std::string out;
  for (std::size_t i = 0; i < n; ++i) out += text;
  return out;
}

}  // namespace

std::string block_diagram(operators::Model& model, const io::WeightSource& source) {
  std::vector<Block> blocks;
  collect(model, source, &blocks);
  // One table over all boxes, so that columns line up from box to box.
  Table table("lllllr");
  for (const Block& block : blocks) {
    for (const Row& row : block.rows) {
      table.row({row.name, row.kind, row.op, row.shape, joined(row.formats),
                 row.bytes > 0.0 ? format_bytes(row.bytes) : ""});
    }
  }
  std::vector<std::string> lines;
  std::size_t width = 0;
  const std::string text = table.text();
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    width = std::max(width, display_width(lines.back()));
    begin = end + 1;
  }
  for (const Block& block : blocks) width = std::max(width, display_width(title_of(block)) + 6);
  std::string out = "      token ids\n          |\n";
  std::size_t line = 0;
  for (const Block& block : blocks) {
    const std::string title = title_of(block);
    out += "┌─ " + title + " " + repeat("─", width - display_width(title) - 1) + "┐\n";
    for (std::size_t i = 0; i < block.rows.size(); ++i, ++line) {
      out += "│ " + lines[line] + std::string(width - display_width(lines[line]), ' ') + " │\n";
    }
    out += "└─────────┬" + repeat("─", width - 8) + "┘\n";
  }
  out += "       logits\n";
  return out;
}

TreeSize tree_size(operators::Model& model, const io::WeightSource& source) {
  TreeSize size;
  const io::MoeConfig& moe = source.config().moe;
  const double share = moe.n_experts > 0
                           ? static_cast<double>(moe.n_active) / static_cast<double>(moe.n_experts)
                           : 1.0;
  std::set<std::string> seen;
  operators::walk(model, [&](operators::Module& module) {
    for (const operators::WeightSpec& spec : module.weights()) {
      const io::TensorInfo* info = source.find(spec.name);
      if (info == nullptr || !seen.insert(spec.name).second) continue;
      const auto n = static_cast<double>(spec.shape.count());
      size.parameters += n;
      size.active_parameters += module.kind() == "Experts" ? n * share : n;
      size.bytes += stored_bytes(*info);
    }
  });
  return size;
}

}  // namespace kt::app
