// The configuration file of the original server (~/.ktransformers/config.yaml), as values by
// "section.key".
//
// Thread rule: pure.
#pragma once
#include <map>
#include <string>

namespace kt::serve {

/// Scalars two levels deep. Throws kNotFound, kIo, kBadFile with the line.
std::map<std::string, std::string> read_config(const std::string& path);

}  // namespace kt::serve
