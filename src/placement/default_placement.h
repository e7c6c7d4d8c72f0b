// The placement when there is no rule file: everything on the CPU with each kind's default
// operator. Thread rule: pure.
#pragma once
#include "io/model_config.h"
#include "operators/builder.h"

namespace kt::placement {

operators::Placement default_placement(const io::ModelConfig& config);

}  // namespace kt::placement
