#include "io/page_store.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace kt::io {
namespace {

namespace fs = std::filesystem;
using IfBusy = PageStore::IfBusy;

class PageStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / fmt::format("kt_page_store_{}", ::getpid());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static Sha256 key(int i) { return sha256(std::as_bytes(std::span(&i, 1))); }
  static std::vector<std::byte> page(int i, std::size_t n = 1000) {
    std::vector<std::byte> bytes(n);
    for (std::size_t j = 0; j < n; ++j) bytes[j] = static_cast<std::byte>(j * 7 + i);
    return bytes;
  }
  static bool holds(PageStore& store, int i, std::size_t n = 1000) {
    std::vector<std::byte> bytes(n);
    return store.get(key(i), bytes) && bytes == page(i, n);
  }
  fs::path file(int i) const { return folder_ / (hex(key(i)) + ".page"); }
  std::unique_ptr<PageStore> open(std::uint64_t max_bytes = 1 << 20) const {
    return std::make_unique<PageStore>(folder_.string(), max_bytes);
  }
  fs::path folder_;
};

TEST_F(PageStoreTest, PagesOutliveTheProcess) {
  {
    const auto store = open();
    for (int i = 0; i < 10; ++i) store->put(key(i), page(i), IfBusy::kWait);
    EXPECT_TRUE(store->has(key(9)));  // queued or written
    EXPECT_TRUE(holds(*store, 9));
    EXPECT_FALSE(store->has(key(10)));
  }
  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(file(0)).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  const auto store = open();
  EXPECT_EQ(store->stats().n_pages, 10u);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(holds(*store, i)) << i;
  EXPECT_EQ(store->stats().n_read, 10u);
  EXPECT_FALSE(holds(*store, 10));
}

TEST_F(PageStoreTest, PastTheSizeTheLongestUnusedGo) {
  const auto store = open(5 * 1016);
  for (int i = 0; i < 5; ++i) store->put(key(i), page(i), IfBusy::kWait);
  store->flush();
  EXPECT_TRUE(holds(*store, 0));
  for (int i = 5; i < 7; ++i) store->put(key(i), page(i), IfBusy::kWait);
  store->flush();
  EXPECT_EQ(store->stats().n_pages, 5u);
  EXPECT_LE(store->stats().bytes, store->max_bytes());
  for (const int there : {0, 3, 4, 5, 6}) EXPECT_TRUE(holds(*store, there)) << there;
  for (const int gone : {1, 2}) {
    EXPECT_FALSE(store->has(key(gone))) << gone;
    EXPECT_FALSE(fs::exists(file(gone))) << gone;
  }
  store->put(key(8), page(8, 6000), IfBusy::kWait);  // larger than all there may be
  EXPECT_FALSE(store->has(key(8)));
  EXPECT_EQ(store->stats().n_dropped, 1u);
}

TEST_F(PageStoreTest, ASmallerSizeHoldsAtTheNextStart) {
  {
    const auto store = open();
    for (int i = 0; i < 10; ++i) store->put(key(i), page(i), IfBusy::kWait);
  }
  EXPECT_EQ(open(3 * 1016)->stats().n_pages, 3u);
  EXPECT_EQ(open()->stats().n_pages, 3u);
}

TEST_F(PageStoreTest, DamagedFilesAreRemovedAndOthersLeftAlone) {
  {
    const auto store = open();
    for (int i = 0; i < 5; ++i) store->put(key(i), page(i), IfBusy::kWait);
  }
  fs::resize_file(file(0), 500);
  fs::resize_file(file(1), 5000);
  {
    std::fstream f(file(2), std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(600);
    f.put('\x55');
  }
  fs::resize_file(file(3), 0);
  const fs::path foreign = folder_ / "mine.txt", left_over = file(9).string() + ".tmp-1-0";
  std::ofstream(foreign) << "mine";
  std::ofstream(left_over) << "half";
  const auto store = open();
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(holds(*store, i)) << i;
    EXPECT_FALSE(fs::exists(file(i))) << i;
  }
  EXPECT_TRUE(holds(*store, 4));
  EXPECT_FALSE(holds(*store, 4, 999));  // of another size
  EXPECT_EQ(store->stats().n_failed, 5u);
  EXPECT_TRUE(fs::exists(foreign));
  EXPECT_FALSE(fs::exists(left_over));
}

TEST_F(PageStoreTest, OneProcessHasAFolder) {
  const auto store = open();
  try {
    open();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
  }
  std::ofstream(folder_.string() + "_file") << "x";
  EXPECT_THROW(PageStore(folder_.string() + "_file", 1), Error);
  fs::remove(folder_.string() + "_file");
}

// A process killed while it writes leaves whole files only.
TEST_F(PageStoreTest, AKilledProcessLeavesAUsableFolder) {
  constexpr std::size_t kBytes = 3 << 20;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    PageStore store(folder_.string(), std::uint64_t{1} << 30);
    for (int i = 0;; ++i) {
      store.put(key(i), page(i, kBytes), IfBusy::kWait);
      if (store.stats().n_written >= 3) [[maybe_unused]]
        const auto n = ::write(ready[1], "x", 1);
    }
  }
  char x;
  ASSERT_EQ(::read(ready[0], &x, 1), 1);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const auto store = open(std::uint64_t{1} << 30);
  const auto n = static_cast<int>(store->stats().n_pages);
  EXPECT_GE(n, 3);
  for (int i = 0; i < n; ++i) EXPECT_TRUE(holds(*store, i, kBytes)) << i;
  EXPECT_EQ(store->stats().n_failed, 0u);
}

}  // namespace
}  // namespace kt::io
