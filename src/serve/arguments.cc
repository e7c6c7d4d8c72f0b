#include "serve/arguments.h"

namespace kt::serve {
namespace {

Json parse(const std::string& text) {
  try {
    return parse_object(text);
  } catch (const std::exception&) {
    return {{"invalid_arguments", text}};
  }
}

}  // namespace

Json arguments_object(const std::string& text) {
  return text.find_first_not_of(" \n\r\t") == std::string::npos ? Json::object() : parse(text);
}

bool call_complete(const Choice& choice, std::size_t index) {
  if (choice.finish != Finish::kLength || index + 1 < choice.calls.size()) return true;
  const Json arguments = arguments_object(choice.calls[index].arguments);
  return !arguments.empty() && !arguments.contains("invalid_arguments");
}

}  // namespace kt::serve
