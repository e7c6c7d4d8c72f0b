#include "placement/default_placement.h"

namespace kt::placement {

operators::Placement default_placement(const io::ModelConfig&) {
  operators::Placement placement;
  placement.default_entry = {"", "cpu", "default"};
  return placement;
}

}  // namespace kt::placement
