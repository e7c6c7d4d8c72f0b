// Writes a placement as a rule file that read_rules() accepts and that gives the same placement:
// modules with equal operator, device and keyword arguments are one rule, its layers listed in the
// regular expression. Modules on the CPU with their default operator need no rule. Thread rule:
// pure.
#pragma once
#include <string>

#include "operators/catalogue.h"
#include "operators/placement.h"

namespace kt::placement {

/// Rules for the modules of a tree built with `placement`. `heading` becomes the comment at the
/// top.
std::string rule_text(operators::Module& root, const operators::Placement& placement,
                      const std::string& heading);

}  // namespace kt::placement
