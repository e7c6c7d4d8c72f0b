#include "base/utf8.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

TEST(FirstUtf8, AcceptsTheEdgesAndRefusesTheRest) {
  EXPECT_EQ(first_utf8("a").code, 'a');
  EXPECT_EQ(first_utf8("\u00df!").length, 2u);
  EXPECT_EQ(first_utf8("\U0010ffff").code, 0x10ffffu);
  for (const char* bad : {"\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xff", "\xe2\x82", "\xe2\x82x"}) {
    EXPECT_EQ(first_utf8(bad).length, 0u) << bad;
  }
}

TEST(Printable, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(printable("größe, 模型 \U0001f600"), "größe, 模型 \U0001f600");
  EXPECT_EQ(printable("a\x1b[2Jb\n\x7f"), "a\\x1b[2Jb\\x0a\\x7f");
  EXPECT_EQ(printable("\xff\xc3(\xe2\x82"), "\\xff\\xc3(\\xe2\\x82");
  EXPECT_EQ(printable("\u009b31m"), "\\xc2\\x9b31m") << "C1 control sequence introducer";
  EXPECT_EQ(printable("\u202egnp"), "\\xe2\\x80\\xaegnp") << "right-to-left override";
}

TEST(CountUtf8, CountsCharacters) { EXPECT_EQ(count_utf8("aß模😀"), 4u); }

}  // namespace
}  // namespace kt
