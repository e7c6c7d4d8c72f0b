// Ids of replies and requests.
//
// Thread rule: any thread.
#pragma once
#include <string>
#include <string_view>

namespace kt::serve {

/// `prefix` and 24 random characters of 0-9 a-z.
std::string make_id(std::string_view prefix);

}  // namespace kt::serve
