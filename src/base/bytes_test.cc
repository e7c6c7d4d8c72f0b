#include "base/bytes.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

TEST(HumanBytes, PicksTheUnit) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes(412 << 20), "412.0 MiB");
  EXPECT_EQ(human_bytes(std::uint64_t{5} << 30), "5.0 GiB");
  EXPECT_EQ(human_bytes(std::uint64_t{1} << 60), "1048576.0 TiB");
}

}  // namespace
}  // namespace kt
