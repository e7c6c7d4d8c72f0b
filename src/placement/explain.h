// What runs where, for people: one line per group of equal modules of a loaded (or just built)
// tree.
//
//   module                                   operator      device  format  bytes
//   model.layers.{1-11}.mlp.experts          KExpertsCPU   cpu     Q4_K    412.0 MiB
//
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "operators/builder.h"

namespace kt::placement {

struct ExplainRow {
  std::string path;  // layer numbers of equal modules merged: "layers.{1-11}"
  std::string op;
  std::string device;
  std::string format;
  std::uint64_t bytes = 0;  // of all modules of the row
  std::string reason;
};

/// Rows that differ in the number of the layer only, as one with the sum of their bytes; in order
/// of first sight.
std::vector<ExplainRow> merge_layers(const std::vector<ExplainRow>& rows);

/// One row for each module that owns weights, in tree order, under its own path.
std::vector<ExplainRow> explain_modules(operators::Module& root,
                                        const operators::Placement& placement);

/// The same with equal layers merged.
std::vector<ExplainRow> explain(operators::Module& root, const operators::Placement& placement);

/// The rows as an aligned table with a total, ending in a newline.
std::string explain_table(operators::Module& root, const operators::Placement& placement);

/// What runs where in a few lines, equal kinds merged: kind, operators, device, format, kernel,
/// memory.
std::string explain_summary(operators::Module& root);

/// Cells of lines of equal length as text: columns of equal width, those in `right` aligned to the
/// right.
using Lines = std::vector<std::vector<std::string>>;
std::string align(const Lines& lines, const std::set<std::size_t>& right);

}  // namespace kt::placement
