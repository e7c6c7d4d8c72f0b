#include "session/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "io/test_files.h"

namespace kt::session {
namespace {

using io::testing::TemporaryFolder;

TEST(Npy, HeaderAndRowsAreWhereNumpyReadsThem) {
  const TemporaryFolder folder;
  const std::string path = folder / "logits.npy";
  NpyWriter writer(path, 2, 3);
  writer.append(std::vector<float>{1.5f, -2.0f, 0.25f});
  writer.append(std::vector<float>{4.0f, 5.0f, 6.0f});
  EXPECT_FALSE(std::filesystem::exists(path)) << "the file must not appear before it is complete";
  writer.finish();
  const std::vector<std::byte> bytes = io::testing::read_bytes(path);
  ASSERT_GT(bytes.size(), 10u);
  EXPECT_EQ(std::memcmp(bytes.data(), "\x93NUMPY\x01\x00", 8), 0);
  const std::size_t length =
      std::to_integer<std::size_t>(bytes[8]) | std::to_integer<std::size_t>(bytes[9]) << 8;
  EXPECT_EQ((10 + length) % 64, 0u);
  ASSERT_EQ(bytes.size(), 10 + length + 6 * sizeof(float));
  const std::string header(reinterpret_cast<const char*>(bytes.data()) + 10, length);
  EXPECT_EQ(header.find("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"), 0u)
      << header;
  EXPECT_EQ(header.back(), '\n');
  std::vector<float> values(6);
  std::memcpy(values.data(), bytes.data() + 10 + length, 24);
  EXPECT_EQ(values, (std::vector<float>{1.5f, -2.0f, 0.25f, 4.0f, 5.0f, 6.0f}));
}

TEST(Npy, HeadersOfAnyLengthAreAligned) {
  const TemporaryFolder folder;
  for (std::int64_t n = 1; n < 1000000000000; n *= 10) {
    const std::string path = folder / "a.npy";
    NpyWriter writer(path, n, n);
    writer.finish();
    EXPECT_EQ(std::filesystem::file_size(path) % 64, 0u) << n;
  }
}

TEST(Npy, AnAbandonedFileLeavesNothing) {
  const TemporaryFolder folder;
  {
    NpyWriter writer(folder / "a.npy", 1, 1);
    writer.append(std::vector<float>{1.0f});
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_THROW(NpyWriter(folder / "none/a.npy", 1, 1), Error);
}

}  // namespace
}  // namespace kt::session
