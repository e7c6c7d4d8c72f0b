// KT_WEB=OFF: a program without the page.
#include "embed/web_assets.h"

namespace kt::web {

std::span<const Asset> assets() { return {}; }

}  // namespace kt::web
