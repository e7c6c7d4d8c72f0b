#include "serve/pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace kt::serve {
namespace {

TEST(Pool, RefusesWhatIsTooMuchAndDropsWhatStoppingFinds) {
  Pool pool(2, 3);
  std::promise<void> begun[2], end;
  const std::shared_future<void> go_on(end.get_future());
  std::atomic<int> n_done{0};
  for (auto& promise : begun) {
    ASSERT_TRUE(pool.run([&] {
      promise.set_value();
      go_on.wait();
      ++n_done;
    }));
    promise.get_future().wait();
  }
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(pool.run([&] { ++n_done; }));
  EXPECT_FALSE(pool.run([&] { ++n_done; }));
  std::promise<void> last;
  pool.go_on([&] { last.set_value(); });
  end.set_value();
  last.get_future().wait();
  pool.stop();
  EXPECT_EQ(n_done, 5);
  EXPECT_TRUE(pool.run([&] { ++n_done; }));
  pool.go_on([&] { ++n_done; });
  EXPECT_EQ(n_done, 5);
}

}  // namespace
}  // namespace kt::serve
