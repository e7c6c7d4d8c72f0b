// Names and strings from untrusted files, made safe to print in one line of an error message.
// Thread rule: pure.
#pragma once
#include <string>
#include <string_view>

namespace kt::io {

/// `text` in double quotes; control and non-ASCII bytes escaped as \xNN, cut after 100 bytes.
std::string quote(std::string_view text);

}  // namespace kt::io
