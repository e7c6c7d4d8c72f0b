// A Worker on the bundled model: requests together as alone, what ends them early, and what does
// not fit.
#include "session/worker.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstdlib>
#include <new>
#include <utility>

#include "base/error.h"

namespace {

thread_local bool no_memory = false;  // for this thread's next allocation

}  // namespace

void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  return std::malloc(n == 0 ? 1 : n);
}
void* operator new(std::size_t n) {
  void* p = std::exchange(no_memory, false) ? nullptr : operator new(n, std::nothrow);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace kt::session {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLong{60000};

Options tiny_moe(std::int64_t context = 256) {
  Options options;
  options.model = std::string(KT_SOURCE_DIR) + "/models/tiny-moe/tiny-moe-q4_k_m.gguf";
  options.context = context;
  options.n_threads = 2;
  return options;
}

engine::Request request(const Worker& worker, const std::string& prompt, std::int64_t n) {
  TextRequest text;
  text.prompt = prompt;
  text.max_tokens = n;
  text.ignore_eos = true;
  text.sampling.temperature = 0.0f;
  return worker.read([&](const Session& session) { return engine_request(session, text); });
}

TextResult wait(Ticket& ticket) {
  while (true) {
    EXPECT_TRUE(ticket.wait(kLong));
    if (ticket.take().ended) return ticket.result();
  }
}

engine::Request request_that_throws() {
  engine::Request request;
  request.prompt = {1, 2};
  request.on_prefill = [](std::int64_t, std::int64_t) { fail(ErrorCode::kIo, "disk", "is gone"); };
  return request;
}

ErrorCode failure(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::kInternal;
}

TEST(Worker, RunsRequestsTogetherAsAlone) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  EXPECT_GT(worker.loading().total, 0u);
  EXPECT_EQ(worker.loading().done, worker.loading().total);
  const std::vector<std::string> prompts = {"Once upon a time", "The cat", "A dog and a bird"};
  std::vector<std::string> alone;
  for (const std::string& p : prompts)
    alone.push_back(wait(*worker.submit(request(worker, p, 20))).text);
  std::vector<std::shared_ptr<Ticket>> tickets;
  for (const std::string& p : prompts) tickets.push_back(worker.submit(request(worker, p, 20)));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    std::string text;
    Ticket::News news;
    while (!news.ended) {
      ASSERT_TRUE(tickets[i]->wait(kLong));
      news = tickets[i]->take();
      text += news.text;
    }
    EXPECT_EQ(text, alone[i]);
    EXPECT_EQ(tickets[i]->result().text, alone[i]);
    EXPECT_EQ(tickets[i]->result().engine.tokens.size(), 20u);
  }
}

TEST(Worker, EndsOneRequestAndNotItsNeighbour) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  const auto neighbour = worker.submit(request(worker, "The cat", 100));
  const auto ended = worker.submit(request(worker, "Once upon a time", 100));
  ASSERT_TRUE(ended->wait(kLong));
  ended->cancel();
  const TextResult result = wait(*ended);
  EXPECT_EQ(result.engine.reason, engine::FinishReason::kCancelled);
  EXPECT_LT(result.engine.tokens.size(), 100u);
  EXPECT_EQ(wait(*neighbour).engine.tokens.size(), 100u);
}

TEST(Worker, LetsRequestsWaitForTheCache) {
  Worker worker(tiny_moe(128));
  ASSERT_TRUE(worker.wait_open(kLong));
  std::vector<std::shared_ptr<Ticket>> tickets;
  for (int i = 0; i < 4; ++i)  // each needs all of it
    tickets.push_back(worker.submit(request(worker, "Once upon a time", 100)));
  tickets[2]->cancel();
  for (int i = 0; i < 4; ++i) {
    const TextResult result = wait(*tickets[static_cast<std::size_t>(i)]);
    if (i == 2) {
      EXPECT_EQ(result.engine.reason, engine::FinishReason::kCancelled);
    } else {
      EXPECT_EQ(result.engine.reason, engine::FinishReason::kMaxTokens);
      EXPECT_EQ(result.engine.tokens.size(), 100u);
    }
  }
}

TEST(Worker, CutsAtStopStrings) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  const std::string whole = wait(*worker.submit(request(worker, "Once upon a time", 20))).text;
  const std::string stop = whole.substr(whole.size() / 2, 4);
  const TextResult cut =
      wait(*worker.submit(request(worker, "Once upon a time", 20), {.stops = {stop}}));
  EXPECT_FALSE(cut.stop_string.empty());
  EXPECT_EQ(cut.text, whole.substr(0, whole.find(stop)));
  const auto bad = worker.submit(request(worker, "Once", 2), {.stops = {""}});
  EXPECT_EQ(failure([&] { wait(*bad); }), ErrorCode::kUsage);
}

TEST(Worker, SaysWhatIsWrongInTheTicket) {
  Worker worker(tiny_moe(64));
  ASSERT_TRUE(worker.wait_open(kLong));
  engine::Request long_one;
  long_one.prompt.assign(65, 1);
  const auto ticket = worker.submit(std::move(long_one));
  EXPECT_EQ(failure([&] { wait(*ticket); }), ErrorCode::kTooLong);
  EXPECT_EQ(failure([&] { wait(*worker.submit({})); }), ErrorCode::kUsage);
  EXPECT_EQ(wait(*worker.submit(request(worker, "Once", 3))).engine.tokens.size(), 3u);
}

TEST(Worker, ClosesInTheMiddle) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  const auto running = worker.submit(request(worker, "Once upon a time", 200));
  ASSERT_TRUE(running->wait(kLong));
  worker.close();
  EXPECT_EQ(failure([&] { wait(*running); }), ErrorCode::kCancelled);
  EXPECT_EQ(failure([&] { worker.submit({}); }), ErrorCode::kUsage);
  EXPECT_EQ(failure([&] { worker.read([](const Session&) {}); }), ErrorCode::kUsage);
  EXPECT_EQ(failure([&] { worker.call([](Session&) {}); }), ErrorCode::kUsage);
  worker.close();
}

TEST(Worker, EndsARequestThatThrowsAndNotItsNeighbour) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  const auto neighbour = worker.submit(request(worker, "The cat", 100));
  const auto ticket = worker.submit(request_that_throws());
  EXPECT_EQ(failure([&] { wait(*ticket); }), ErrorCode::kIo);
  EXPECT_EQ(wait(*neighbour).engine.tokens.size(), 100u);
  EXPECT_EQ(wait(*worker.submit(request(worker, "Once", 3))).engine.tokens.size(), 3u);
}

TEST(Worker, EndsEverythingWhenAStepThrows) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  const auto first = worker.submit(request(worker, "The cat", 200));
  const auto second = worker.submit(request(worker, "Once upon a time", 200));
  ASSERT_TRUE(first->wait(kLong));
  worker.post([](Session&) { no_memory = true; });
  EXPECT_THROW(wait(*first), std::bad_alloc);
  EXPECT_THROW(wait(*second), std::bad_alloc);
  EXPECT_THROW(worker.submit({}), std::bad_alloc);
}

TEST(Worker, TellsWhyItCannotOpen) {
  Options options = tiny_moe();
  options.model = "/nowhere/model.gguf";
  Worker worker(options);
  EXPECT_EQ(failure([&] { worker.wait_open(kLong); }), ErrorCode::kNotFound);
}

TEST(Worker, CallsBetweenSteps) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  std::thread::id there;
  worker.call([&](Session&) { there = std::this_thread::get_id(); });
  EXPECT_NE(there, std::this_thread::get_id());
  EXPECT_EQ(failure([&] { worker.call([](Session&) { fail(ErrorCode::kIo, "x", "y"); }); }),
            ErrorCode::kIo);
}

TEST(Worker, QueuesAllOfARequestOrNothing) {
  Worker worker(tiny_moe(), {.max_running = 1, .max_waiting = 2});
  ASSERT_TRUE(worker.wait_open(kLong));
  const auto several = [&](int n) {
    std::vector<engine::Request> requests;
    for (int i = 0; i < n; ++i) requests.push_back(request(worker, "Once", 100));
    return worker.submit(std::move(requests), {});
  };
  std::promise<void> go_on;
  worker.post([&](Session&) { go_on.get_future().wait(); });
  EXPECT_EQ(failure([&] { several(4); }), ErrorCode::kUsage);  // never
  EXPECT_EQ(worker.load().n_waiting, 0u);
  const auto tickets = several(3);
  EXPECT_THROW(several(1), QueueFull);  // not now
  EXPECT_THROW(worker.enqueue([](Session&) { return false; }), QueueFull);
  go_on.set_value();
  for (const auto& ticket : tickets) ticket->cancel();
  for (const auto& ticket : tickets) wait(*ticket);
}

TEST(Worker, TakesTurnsWithWhatIsLong) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  std::string order;
  std::promise<void> begin, end;
  worker.post([&](Session&) { begin.get_future().wait(); });
  for (const char name : {'a', 'b'}) {
    worker.enqueue([&, name, n = 0](Session&) mutable {
      order += name;
      if (++n < 3) return true;
      if (name == 'b') end.set_value();
      return false;
    });
  }
  EXPECT_EQ(worker.load().n_waiting, 2u);
  engine::Request beside = request(worker, "Once", 50);
  beside.on_prefill = [&](std::int64_t, std::int64_t) { order += '.'; };
  const auto ticket = worker.submit(std::move(beside));
  begin.set_value();
  end.get_future().wait();
  EXPECT_LT(order.find('.'), order.size() - 1);  // it did not wait for them, nor they for it
  std::erase(order, '.');
  EXPECT_EQ(order, "ababab");
  EXPECT_EQ(wait(*ticket).engine.tokens.size(), 50u);
}

TEST(Worker, DropsAPartThatThrows) {
  Worker worker(tiny_moe());
  ASSERT_TRUE(worker.wait_open(kLong));
  const auto neighbour = worker.submit(request(worker, "The cat", 50));
  auto dropped = std::make_shared<std::promise<void>>();
  std::future<void> end = dropped->get_future();
  worker.enqueue([dropped](Session&) -> bool { fail(ErrorCode::kIo, "disk", "is gone"); });
  dropped.reset();
  EXPECT_THROW(end.get(), std::future_error);  // by the end of the last that knew the promise
  EXPECT_EQ(wait(*neighbour).engine.tokens.size(), 50u);
  EXPECT_EQ(worker.load().n_waiting, 0u);
}

TEST(Worker, TellsItsState) {
  std::vector<std::string> states;
  WorkerOptions options;
  options.before_opening = [&] { states.push_back("before"); };
  options.on_state = [&](const Session* session, const std::exception_ptr& error) {
    states.push_back(error ? "failed" : session != nullptr ? "open" : "nothing");
  };
  {
    Worker worker(tiny_moe(), options);
    ASSERT_TRUE(worker.wait_open(kLong));
    const auto ticket = worker.submit(request(worker, "The cat", 200));
    worker.post([](Session&) { no_memory = true; });
    EXPECT_THROW(wait(*ticket), std::bad_alloc);
  }
  EXPECT_EQ(states, (std::vector<std::string>{"before", "open", "failed"}));
}

TEST(Ticket, HasADescriptorThatPollSees) {
  Ticket ticket;
  pollfd fd{ticket.descriptor(), POLLIN, 0};
  EXPECT_EQ(::poll(&fd, 1, 0), 0);
  ticket.push("a");
  ticket.push("b");
  EXPECT_EQ(::poll(&fd, 1, 0), 1);
  EXPECT_EQ(ticket.take().text, "ab");
  EXPECT_EQ(::poll(&fd, 1, 0), 0);
  ticket.finish({});
  EXPECT_EQ(::poll(&fd, 1, 0), 1);
  EXPECT_TRUE(ticket.take().ended);
  EXPECT_TRUE(ticket.take().ended);
}

}  // namespace
}  // namespace kt::session
