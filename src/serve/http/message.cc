#include "serve/http/message.h"

#include <optional>

#include "base/error.h"
#include "base/utf8.h"

namespace kt::serve::http {
namespace {

std::optional<unsigned> hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
  return std::nullopt;
}

std::string decode(std::string_view text, bool plus_is_space) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i] == '+' && plus_is_space ? ' ' : text[i];
      continue;
    }
    const auto high = i + 1 < text.size() ? hex_digit(text[i + 1]) : std::nullopt;
    const auto low = i + 2 < text.size() ? hex_digit(text[i + 2]) : std::nullopt;
    if (!high || !low) {
      fail(ErrorCode::kUsage, "request target", "% is not followed by two hexadecimal digits");
    }
    out += static_cast<char>(*high * 16 + *low);
    i += 2;
  }
  for (std::string_view rest = out; !rest.empty();) {
    const Utf8Char c = first_utf8(rest);
    if (c.length == 0 || c.code < 0x20 || c.code == 0x7f) {
      fail(ErrorCode::kUsage, "request target", "holds what is not text in UTF-8");
    }
    rest.remove_prefix(c.length);
  }
  return out;
}

void check_segments(std::string_view path) {
  while (!path.empty()) {
    const std::size_t end = path.find('/');
    const std::string_view segment = path.substr(0, end);
    if (segment == "." || segment == "..") {
      fail(ErrorCode::kUsage, "request target", "'{}' is no part of a path here", segment);
    }
    path.remove_prefix(end == std::string_view::npos ? path.size() : end + 1);
  }
}

}  // namespace

std::string_view Request::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

void parse_target(std::string_view target, Request* request) {
  target = target.substr(0, target.find('#'));
  const std::size_t question = target.find('?');
  if (!target.starts_with('/')) {
    fail(ErrorCode::kUsage, "request target", "must begin with /");
  }
  request->path = decode(target.substr(0, question), false);
  check_segments(request->path);
  if (question == std::string_view::npos) return;
  std::string_view rest = target.substr(question + 1);
  while (!rest.empty()) {
    const std::size_t end = rest.find('&');
    const std::string_view pair = rest.substr(0, end);
    const std::size_t equals = pair.find('=');
    if (!pair.empty()) {
      request->query[decode(pair.substr(0, equals), true)] =
          equals == std::string_view::npos ? "" : decode(pair.substr(equals + 1), true);
    }
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
}

}  // namespace kt::serve::http
