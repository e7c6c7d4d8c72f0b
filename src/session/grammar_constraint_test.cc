// Replies of the bundled model bound to grammars: whole JSON, after free text, several at once.
#include "session/grammar_constraint.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "session/worker.h"

namespace kt::session {
namespace {

constexpr std::chrono::milliseconds kLong{60000};
constexpr std::string_view kSchema = R"({"type": "object", "properties": {
  "name": {"enum": ["Tom", "Lily"]}, "age": {"type": "integer", "minimum": 1, "maximum": 9},
  "story": {"type": "string", "maxLength": 20}}, "required": ["name", "age", "story"],
  "additionalProperties": false})";

class GrammarConstraintTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    Options options;
    options.model = std::string(KT_SOURCE_DIR) + "/models/tiny-moe/tiny-moe-q4_k_m.gguf";
    options.context = 512;
    options.n_threads = 2;
    worker_ = new Worker(options);
    ASSERT_TRUE(worker_->wait_open(kLong));
  }
  static void TearDownTestSuite() { delete worker_; }

  static engine::Request request(const text::GrammarSpec& spec, float temperature,
                                 ReasoningMarks marks = {}) {
    TextRequest text;
    text.prompt = "Once upon a time";
    text.max_tokens = 300;
    text.sampling.temperature = temperature;
    text.sampling.seed = 5;
    return worker_->read([&](const Session& session) {
      engine::Request r = engine_request(session, text);
      r.constraint = std::make_shared<GrammarConstraint>(session.grammars().compile(spec),
                                                         *session.tokenizer(), std::move(marks));
      return r;
    });
  }
  static TextResult wait(Ticket& ticket) {
    while (true) {
      EXPECT_TRUE(ticket.wait(kLong));
      if (ticket.take().ended) return ticket.result();
    }
  }
  static void check(const std::string& text) {
    const nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_EQ(value.size(), 3u) << text;
    EXPECT_TRUE(value["name"] == "Tom" || value["name"] == "Lily") << text;
    EXPECT_GE(value["age"].get<int>(), 1) << text;
    EXPECT_LE(value["age"].get<int>(), 9) << text;
  }
  static Worker* worker_;
};
Worker* GrammarConstraintTest::worker_ = nullptr;

TEST_F(GrammarConstraintTest, RepliesFollowTheSchema) {
  const text::GrammarSpec spec{text::GrammarKind::kJsonSchema, std::string(kSchema)};
  std::vector<std::shared_ptr<Ticket>> tickets;
  for (const float temperature : {0.0f, 0.8f, 1.5f})
    tickets.push_back(worker_->submit(request(spec, temperature)));
  for (const auto& ticket : tickets) {
    const TextResult result = wait(*ticket);
    EXPECT_EQ(result.engine.reason, engine::FinishReason::kStopToken);
    check(result.text);
  }
}

TEST_F(GrammarConstraintTest, OneThatIsCompleteStopsTheReply) {
  const TextResult result =
      wait(*worker_->submit(request({text::GrammarKind::kRegex, " there was (a|the) cat"}, 0.0f)));
  EXPECT_EQ(result.engine.reason, engine::FinishReason::kStopToken);
  EXPECT_TRUE(result.text == " there was a cat" || result.text == " there was the cat")
      << result.text;
}

TEST_F(GrammarConstraintTest, BeginsAfterReasoning) {
  const text::GrammarSpec spec{text::GrammarKind::kJsonSchema, std::string(kSchema)};
  ReasoningMarks marks;
  marks.inside = true;
  marks.close = ".";
  const TextResult result = wait(*worker_->submit(request(spec, 0.0f, marks)));
  EXPECT_EQ(result.engine.reason, engine::FinishReason::kStopToken);
  const std::size_t end = result.text.find('.');
  ASSERT_NE(end, std::string::npos);
  EXPECT_GT(end, 5u);
  check(result.text.substr(end + 1));
}

// The adapter alone, token by token, with a marker that spans several.
TEST_F(GrammarConstraintTest, MarkersMaySpanTokens) {
  worker_->read([](const Session& session) {
    const text::Tokenizer& tokenizer = *session.tokenizer();
    using State = engine::TokenConstraint::State;
    ReasoningMarks marks;
    marks.inside = true;
    marks.close = "aab</x>";
    GrammarConstraint constraint(session.grammars().compile({text::GrammarKind::kRegex, "yes"}),
                                 tokenizer, marks);
    std::vector<std::uint32_t> mask((static_cast<std::size_t>(session.grammars().n_vocab()) + 31) /
                                    32);
    const auto ids = tokenizer.encode("so a aaab</ aaab</x>", false, false);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(constraint.fill(mask), State::kFree);
      EXPECT_EQ(constraint.accept(ids[i]), i + 1 < ids.size() ? State::kFree : State::kBound);
    }
    EXPECT_EQ(constraint.fill(mask), State::kBound);
    EXPECT_EQ(constraint.accept(ids[0]), State::kFailed);
    EXPECT_NE(constraint.error().find("grammar"), std::string::npos);
    return 0;
  });
}

TEST(ReasoningMarks, FollowTheFormat) {
  text::ReplyFormat format = text::detect_reply_format("<think>", "<think>\n");
  EXPECT_TRUE(reasoning_marks(format).inside);
  EXPECT_EQ(reasoning_marks(format).close, "</think>");
  format.starts_in_reasoning = false;
  EXPECT_FALSE(reasoning_marks(format).inside);
  EXPECT_EQ(reasoning_marks(format).open, "<think>");
  EXPECT_TRUE(reasoning_marks(format, false).open.empty());
  EXPECT_TRUE(reasoning_marks(text::detect_reply_format("<|channel|><|message|>", "")).inside);
  EXPECT_TRUE(reasoning_marks({}).close.empty());
}

}  // namespace
}  // namespace kt::session
