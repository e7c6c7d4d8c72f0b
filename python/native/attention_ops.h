// What queries and caches of the attention ops have to be, on a CPU as on a GPU.
// Thread rule: pure.
#pragma once
#include "arrays.h"

namespace kt::python {

/// Throws kUsage unless q [n, heads, dim] can attend to k and v [pages or sequences, tokens, kv
/// heads, dim], whose pages, if they are paged, follow each other without gaps.
void check_caches(const View& q, const View& k, const View& v, bool paged);

}  // namespace kt::python
