// A plan for people: bytes of every device by class, what the machine would do with it, what to
// change, and the modules with the rule or reason that put them where they are.
//
//               attention  experts  …   cache  workspace  margin     free
//   cpu                 0  370.1 GiB …
//   cuda:0       10.1 GiB    6.1 GiB …
//
// Thread rule: pure.
#pragma once
#include <string>

#include "placement/planner.h"

namespace kt::placement {

/// Devices × classes; classes that no device has are left out.
std::string device_table(const Plan& plan);

/// Speeds with what limits them; empty when the machine's rates are not known.
std::string speed_text(const Plan& plan);

/// Modules that own weights, equal layers merged.
std::string module_table(const Plan& plan);

}  // namespace kt::placement
