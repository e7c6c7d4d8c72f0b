// Operators of a user's shared object, behind the C table of include/kt/plugin.h.
//
//   load_plugin: dlopen → table checked → one catalogue row per operator, "<plug-in>.<Class>"
//
// The library stays open as long as a catalogue row or a module of it lives. Its code runs with all
// rights of this process: checks catch mistakes, not malice. Thread rule: as Catalogue.
#pragma once
#include <string>

#include "operators/catalogue.h"

namespace kt::operators {

/// Adds the operators of the shared object at `path`. Throws kNotFound, kBadFile (no library, or
/// none of this project's), kUnsupported (table of another version, unknown kind), kUsage (a class
/// name is taken); then nothing was added.
void load_plugin(Catalogue& catalogue, const std::string& path);

}  // namespace kt::operators
