#include "serve/http/lookup.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "base/error.h"

namespace kt::serve::http {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

const boost::asio::ip::tcp::endpoint kHome(boost::asio::ip::address_v4::loopback(), 80);

TEST(Lookup, FindsWhatTheSystemKnows) {
  Lookup lookup("127.0.0.1", "80");
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(lookup.find(Clock::now() + std::chrono::minutes(1)), Lookup::Addresses{kHome});
}

// Whatever happens here, nothing waits for it.
struct Slow {
  std::promise<void> go_on;
  std::atomic<int> n_begun{0};
};

Lookup slow_lookup(const std::shared_ptr<Slow>& slow) {
  return Lookup([slow] {
    ++slow->n_begun;
    slow->go_on.get_future().wait();
    return Lookup::Addresses{kHome};
  });
}

TEST(Lookup, IsNotWaitedForLongerThanItMayTake) {
  const auto slow = std::make_shared<Slow>();
  {
    Lookup lookup = slow_lookup(slow);
    for (int i = 0; i < 3; ++i) EXPECT_THROW(lookup.find(Clock::now() + milliseconds(10)), Error);
    EXPECT_LE(slow->n_begun, 1);  // of three
  }
  slow->go_on.set_value();  // its thread outlived the Lookup
}

TEST(Lookup, TakesUpWhatCameLate) {
  const auto slow = std::make_shared<Slow>();
  Lookup lookup = slow_lookup(slow);
  EXPECT_THROW(lookup.find(Clock::now() + milliseconds(10)), Error);
  slow->go_on.set_value();
  EXPECT_EQ(lookup.find(Clock::now() + std::chrono::minutes(1)), Lookup::Addresses{kHome});
  EXPECT_EQ(slow->n_begun, 1);
}

TEST(Lookup, ThrowsWhatTheLookupThrows) {
  Lookup lookup([]() -> Lookup::Addresses { throw std::runtime_error("no such host"); });
  for (int i = 0; i < 2; ++i)
    EXPECT_THROW(lookup.find(Clock::now() + std::chrono::minutes(1)), std::runtime_error);
}

}  // namespace
}  // namespace kt::serve::http
