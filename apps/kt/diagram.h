// The module tree as a block diagram: one box per block in the order data flows, consecutive layers
// of equal shape folded into one box, with shape, format and size of every weight. Thread rule:
// pure.
#pragma once
#include <string>

#include "io/weight_source.h"
#include "operators/kinds.h"

namespace kt::app {

/// Needs the headers only: the tree may be unloaded. Weights missing from `source` show no format.
std::string block_diagram(operators::Model& model, const io::WeightSource& source);

/// Parameters of the tree, and bytes of its tensors in `source`.
struct TreeSize {
  double parameters = 0.0;
  double active_parameters = 0.0;  // per token: routed experts count by the share that runs
  double bytes = 0.0;
};
TreeSize tree_size(operators::Model& model, const io::WeightSource& source);

}  // namespace kt::app
