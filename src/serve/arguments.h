// Arguments of tool calls for protocols that want them as an object: models write text.
//
// Thread rule: pure.
#pragma once
#include <string>

#include "serve/reply.h"

namespace kt::serve {

/// The object that the text is; none for an empty text. What is no object is kept as
/// {"invalid_arguments": text}, so that the caller sees it and its schema refuses it.
Json arguments_object(const std::string& text);

/// False for a last call that the end of the tokens cut off.
bool call_complete(const Choice& choice, std::size_t index);

}  // namespace kt::serve
