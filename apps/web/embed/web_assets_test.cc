#include "embed/web_assets.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace kt::web {
namespace {

TEST(WebAssets, PageIsFirstAndComplete) {
  const auto files = assets();
  if (files.empty()) GTEST_SKIP() << "built with KT_WEB=OFF";
  EXPECT_EQ(files[0].path, "index.html");
  EXPECT_EQ(files[0].content_type, "text/html; charset=utf-8");
  std::set<std::string_view> types;
  for (const auto& file : files) types.insert(file.content_type);
  EXPECT_TRUE(types.contains("text/javascript; charset=utf-8"));
  EXPECT_TRUE(types.contains("text/css; charset=utf-8"));
}

TEST(WebAssets, EveryFileIsOneGzipMemberWithATag) {
  std::set<std::string_view> paths;
  for (const auto& file : assets()) {
    EXPECT_TRUE(paths.insert(file.path).second) << file.path;
    EXPECT_FALSE(file.path.starts_with('/')) << file.path;
    ASSERT_GE(file.gzip.size(), 18u) << file.path;
    EXPECT_EQ(file.gzip[0], 0x1f) << file.path;
    EXPECT_EQ(file.gzip[1], 0x8b) << file.path;
    for (int i = 4; i < 8; ++i) EXPECT_EQ(file.gzip[i], 0) << file.path << ": has a time in it";
    ASSERT_GT(file.etag.size(), 2u) << file.path;
    EXPECT_EQ(file.etag.front(), '"');
    EXPECT_EQ(file.etag.back(), '"');
  }
}

TEST(WebAssets, StaysSmall) {
  size_t total = 0;
  for (const auto& file : assets()) total += file.gzip.size();
  EXPECT_LE(total, 400u * 1024);
}

}  // namespace
}  // namespace kt::web
