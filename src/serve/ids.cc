#include "serve/ids.h"

#include <random>

namespace kt::serve {

std::string make_id(std::string_view prefix) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id(prefix);
  for (int i = 0; i < 24; ++i) id += "0123456789abcdefghijklmnopqrstuvwxyz"[random() % 36];
  return id;
}

}  // namespace kt::serve
