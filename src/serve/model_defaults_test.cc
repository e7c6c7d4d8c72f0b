#include "serve/model_defaults.h"

#include <gtest/gtest.h>

namespace kt::serve {
namespace {

Json message(const char* role, const char* content) {
  return {{"role", role}, {"content", content}};
}

// The contents of a conversation, in a line.
std::string text(const Json& messages) {
  std::string all;
  for (const Json& m : messages) all += (all.empty() ? "" : " ") + m["content"].get<std::string>();
  return all;
}

TEST(ModelDefaults, StandBeforeTheConversation) {
  ModelDefaults defaults;
  const Json asked = {message("user", "hi")};
  EXPECT_EQ(begin_conversation(defaults, asked, false), asked);
  defaults.system = "brief";
  defaults.messages = {message("user", "one"), message("assistant", "two")};
  EXPECT_EQ(text(begin_conversation(defaults, asked, false)), "brief one two hi");
  EXPECT_EQ(text(begin_conversation(defaults, asked, true)), "brief hi");
  EXPECT_EQ(text(begin_conversation(defaults, Json::array(), true)), "brief");
}

TEST(ModelDefaults, GiveWayToTheRequestsOwnSystemMessage) {
  ModelDefaults defaults;
  defaults.system = "brief";
  defaults.messages = {message("system", "kind"), message("user", "one"),
                       message("assistant", "two")};
  const Json user = message("user", "hi"), late = message("system", "late");
  EXPECT_EQ(text(begin_conversation(defaults, {user, late}, false)), "brief kind one two hi late");
  for (const char* role : {"system", "developer"}) {
    EXPECT_EQ(text(begin_conversation(defaults, {message(role, "own"), user}, false)),
              "own one two hi");
  }
}

TEST(ModelDefaults, AreWhereAnAskBegins) {
  ModelDefaults defaults;
  defaults.sampling.top_k = 3;
  defaults.max_tokens = 7;
  defaults.stops = {"x"};
  Ask ask;
  start_ask(defaults, &ask);
  EXPECT_EQ(ask.sampling.top_k, 3);
  EXPECT_EQ(ask.max_tokens, 7);
  EXPECT_EQ(ask.stops, defaults.stops);
}

}  // namespace
}  // namespace kt::serve
