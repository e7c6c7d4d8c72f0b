// Private to text/: calls into the Rust library, with its errors turned into kt::Error.
// Thread rule: stateless.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"
#include "kt_text/src/lib.rs.h"
#include "rust/cxx.h"

namespace kt::text {

/// The bytes of a text as Rust takes them.
inline rust::Slice<const std::uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

/// Throws the error whose text a Rust call gave: "<class>: <message>".
[[noreturn]] inline void fail_from_rust(const std::string& path, std::string_view text) {
  const std::size_t colon = text.find(": ");
  const std::string_view name = text.substr(0, colon);
  ErrorCode code = ErrorCode::kInternal;
  if (name == "bad_file") code = ErrorCode::kBadFile;
  if (name == "unsupported") code = ErrorCode::kUnsupported;
  if (name == "usage") code = ErrorCode::kUsage;
  if (colon != std::string_view::npos) text.remove_prefix(colon + 2);
  fail(code, path, "{}", text);
}

/// Runs `call`, which may throw rust::Error.
template <class Call>
auto call_rust(const std::string& path, Call&& call) {
  try {
    return call();
  } catch (const rust::Error& error) {
    fail_from_rust(path, error.what());
  }
}

}  // namespace kt::text
