#include "serve/reply.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "serve/any_of.h"

namespace kt::serve {
namespace {

using Clock = std::chrono::steady_clock;
using text::ReplyEvent;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// How much of the text is reasoning, 0 to 1; -1: there is no text.
double reasoning_share(const std::vector<ReplyEvent>& events) {
  std::size_t bytes = 0, all = 0;
  for (const ReplyEvent& event : events) {
    all += event.text.size();
    if (event.kind == ReplyEvent::Kind::kReasoning) bytes += event.text.size();
  }
  return all == 0 ? -1.0 : static_cast<double>(bytes) / static_cast<double>(all);
}

class ReplyWork : public http::Work {
 public:
  ReplyWork(Protocol protocol, Generation generation, std::unique_ptr<Codec> codec, OnDone on_done,
            http::Headers headers)
      : protocol_(protocol),
        headers_(std::move(headers)),
        codec_(std::move(codec)),
        on_done_(std::move(on_done)),
        generation_(std::move(generation)),
        choices_(generation_.tickets.size()) {
    const std::size_t n = generation_.tickets.size() / generation_.n_prompt.size();
    for (std::size_t i = 0; i < generation_.tickets.size(); ++i) {
      parts_.push_back({generation_.tickets[i],
                        text::ReplyParser(generation_.formats[i / n], generation_.tools)});
      if (!generation_.scores.empty()) choices_[i].prompt = generation_.scores[i / n];
    }
    for (const std::int64_t tokens : generation_.n_prompt) usage_.n_prompt += tokens;
    if (parts_.size() > 1) {
      any_ = std::make_unique<AnyOf>();
      for (const Part& part : parts_) any_->add(part.ticket->descriptor());
    }
  }
  ~ReplyWork() override {
    if (!done_) {
      const Problem gone{499, "the client closed the connection"};
      report(&gone);
    }
  }

  int descriptor() override {
    return any_ != nullptr ? any_->descriptor() : parts_[0].ticket->descriptor();
  }
  std::string_view keep_alive() const override { return codec_->keep_alive(); }

  void advance(http::Output& output) override {
    std::string out;
    if (codec_->streams() && !begun_) {
      begun_ = true;
      output.start(head());
      codec_->begin(parts_.size(), out);
    }
    try {
      for (std::size_t i = 0; i < parts_.size(); ++i) take_news(i, out);
    } catch (...) {
      fail(current_problem(), out, output);
      return;
    }
    if (n_ended_ == parts_.size()) {
      usage_.total_seconds = seconds_since(start_);
      done_ = true;
      report(nullptr);
      if (!codec_->streams()) {
        output.reply({head(), codec_->whole(choices_, usage_)});
        return;
      }
      codec_->end(choices_, usage_, out);
      output.finish();
    }
    output.write(out);
  }

 private:
  struct Part {
    std::shared_ptr<session::Ticket> ticket;
    text::ReplyParser parser;
    bool ended = false;
    std::size_t n_uncounted = 0;  // tokens whose text is not there yet
  };

  http::Head head() const {
    http::Head head = codec_->head();
    head.headers.insert(head.headers.end(), headers_.begin(), headers_.end());
    return head;
  }

  void take_news(std::size_t i, std::string& out) {
    Part& part = parts_[i];
    if (part.ended || !part.ticket->wait(std::chrono::milliseconds(0))) return;
    session::Ticket::News news = part.ticket->take();
    if (!news.tokens.empty() && first_ < 0) first_ = seconds_since(start_);
    Choice& choice = choices_[i];
    choice.tokens.insert(choice.tokens.end(), news.tokens.begin(), news.tokens.end());
    std::vector<ReplyEvent> events;
    if (!news.text.empty()) events = part.parser.push(news.text);
    if (news.ended) {
      for (ReplyEvent& event : part.parser.finish()) events.push_back(std::move(event));
    }
    take_events(i, events, std::move(news.tokens), out);
    if (!news.ended) return;
    part.ended = true;
    ++n_ended_;
    finish(part.ticket->result(), choice);
    if (codec_->streams()) codec_->end_choice(i, choice, out);
  }

  void take_events(std::size_t i, const std::vector<ReplyEvent>& events,
                   std::vector<engine::SampledToken> tokens, std::string& out) {
    Choice& choice = choices_[i];
    // Text comes later than its tokens, or with others', so tokens count by the next text's
    // bytes.
    parts_[i].n_uncounted += tokens.size();
    if (const double share = reasoning_share(events); share >= 0) {
      const auto n = static_cast<double>(std::exchange(parts_[i].n_uncounted, 0));
      choice.n_reasoning += std::llround(n * share);
    }
    for (const ReplyEvent& event : events) {
      switch (event.kind) {
        case ReplyEvent::Kind::kContent: choice.content += event.text; break;
        case ReplyEvent::Kind::kReasoning: choice.reasoning += event.text; break;
        case ReplyEvent::Kind::kCallBegin:
          choice.calls.push_back({event.id, event.text, {}});
          break;
        case ReplyEvent::Kind::kCallArguments:
          choice.calls[static_cast<std::size_t>(event.index)].arguments += event.text;
          break;
        case ReplyEvent::Kind::kCallEnd: break;
      }
      if (codec_->streams()) codec_->event(i, event, std::exchange(tokens, {}), out);
    }
    if (!tokens.empty() && codec_->streams()) {
      codec_->event(i, {ReplyEvent::Kind::kContent, {}, {}, 0}, tokens, out);
    }
  }

  void finish(const session::TextResult& result, Choice& choice) {
    const engine::Result& engine = result.engine;
    choice.stop_string = result.stop_string;
    choice.stop_token = engine.stop_token;
    switch (engine.reason) {
      case engine::FinishReason::kMaxTokens:
      case engine::FinishReason::kContextFull:
      case engine::FinishReason::kCancelled: choice.finish = Finish::kLength; break;
      default: choice.finish = choice.calls.empty() ? Finish::kStop : Finish::kToolCalls;
    }
    if (engine.started != Clock::time_point{}) {
      // It may have begun before this object was made.
      const double queued =
          std::max(0.0, std::chrono::duration<double>(engine.started - start_).count());
      usage_.queue_seconds =
          usage_.queue_seconds < 0 ? queued : std::min(usage_.queue_seconds, queued);
    }
    usage_.n_cached += engine.n_cached;
    usage_.n_generated += static_cast<std::int64_t>(engine.tokens.size());
    usage_.n_reasoning += choice.n_reasoning;
    usage_.n_drafted += engine.n_drafted;
    usage_.n_accepted += engine.n_accepted;
    usage_.n_decoded = std::max(usage_.n_decoded, engine.n_decoded);
    usage_.prefill_seconds = std::max(usage_.prefill_seconds, engine.prefill_seconds);
    usage_.decode_seconds = std::max(usage_.decode_seconds, engine.decode_seconds);
  }

  void fail(const Problem& problem, std::string& out, http::Output& output) {
    done_ = true;
    report(&problem);
    if (!codec_->streams()) {
      http::Reply reply = problem_reply(protocol_, problem);
      reply.head.headers.insert(reply.head.headers.end(), headers_.begin(), headers_.end());
      output.reply(std::move(reply));
      return;
    }
    codec_->fail(problem, out);
    output.write(out);
    output.finish();
  }

  void report(const Problem* problem) {
    usage_.total_seconds = seconds_since(start_);
    if (on_done_) on_done_(usage_, choices_, first_, problem);
  }

  const Protocol protocol_;
  const http::Headers headers_;
  std::unique_ptr<Codec> codec_;
  OnDone on_done_;
  const Generation generation_;
  std::vector<Part> parts_;
  std::unique_ptr<AnyOf> any_;
  std::vector<Choice> choices_;
  Usage usage_;
  std::size_t n_ended_ = 0;
  bool begun_ = false;
  bool done_ = false;
  double first_ = -1.0;  // seconds until the first token
  const Clock::time_point start_ = Clock::now();
};

}  // namespace

http::Head event_stream_head(bool streams) {
  http::Head head;
  if (!streams) return head;
  head.content_type = "text/event-stream";
  head.headers = {{"cache-control", "no-cache"}, {"x-accel-buffering", "no"}};
  return head;
}

std::unique_ptr<http::Work> make_reply(Protocol protocol, Generation generation,
                                       std::unique_ptr<Codec> codec, OnDone on_done,
                                       http::Headers headers) {
  return std::make_unique<ReplyWork>(protocol, std::move(generation), std::move(codec),
                                     std::move(on_done), std::move(headers));
}

}  // namespace kt::serve
