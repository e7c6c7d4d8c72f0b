#include "serve/model_defaults.h"

namespace kt::serve {
namespace {

bool is_system(const Json& message) {
  if (!message.is_object()) return false;
  const Json role = message.value("role", Json());
  return role == "system" || role == "developer";
}

}  // namespace

void start_ask(const ModelDefaults& defaults, Ask* ask) {
  ask->sampling = defaults.sampling;
  ask->max_tokens = defaults.max_tokens;
  ask->stops = defaults.stops;
}

Json begin_conversation(const ModelDefaults& defaults, const Json& messages, bool goes_on) {
  Json all = Json::array();
  auto next = messages.begin();
  for (; next != messages.end() && is_system(*next); ++next) all.push_back(*next);
  const bool has_system = !all.empty();
  if (!has_system && !defaults.system.empty())
    all.push_back({{"role", "system"}, {"content", defaults.system}});
  if (!goes_on) {
    for (const Json& message : defaults.messages) {
      if (!has_system || !is_system(message)) all.push_back(message);
    }
  }
  all.insert(all.end(), next, messages.end());
  return all;
}

}  // namespace kt::serve
