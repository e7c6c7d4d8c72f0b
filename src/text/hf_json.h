// Private to text/: the small JSON files of a Hugging Face folder, read with every field optional.
// Thread rule: stateless.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace kt::text {

/// The whole file, or nothing if there is none. Throws kIo, kBadFile above 1 GiB.
std::optional<std::string> read_optional(const std::string& path);

/// The object in the file; an empty object if there is no file. Throws kBadFile, kIo.
nlohmann::json read_optional_json(const std::string& path);

/// object[key] if it is a string, else empty.
std::string string_or(const nlohmann::json& object, const char* key);

/// A token's text: object[key], a string or {"content": string}; else empty.
std::string token_text(const nlohmann::json& object, const char* key);

/// object[key] if it is true or false.
std::optional<bool> bool_of(const nlohmann::json& object, const char* key);

}  // namespace kt::text
