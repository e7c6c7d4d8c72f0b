// Helpers of the tests in this folder: temporary folders, small models, byte edits.
// Thread rule: tests only.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/mmap_file.h"

namespace kt::io::testing {

/// A folder that is removed with its contents.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kt-io-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::vector<std::byte> read_bytes(const std::string& path) {
  const MmapFile file(path);
  return {file.bytes().begin(), file.bytes().end()};
}

inline void write_bytes(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

/// The error that `action` throws; fails the test when it throws none.
inline std::string message_of(const std::function<void()>& action, ErrorCode code) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error_code_name(error.code()), error_code_name(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

/// Runs `parse` on every prefix of `bytes` and on `n_flips` random edits of it; only kt::Error may
/// escape. Returns how many inputs were refused.
inline int feed_damaged(const std::vector<std::byte>& bytes, int n_flips,
                        const std::function<void(const std::vector<std::byte>&)>& parse) {
  int refused = 0;
  auto feed = [&](const std::vector<std::byte>& input) {
    try {
      parse(input);
    } catch (const Error&) {
      ++refused;
    }
  };
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    feed(std::vector<std::byte>(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)));
  }
  std::mt19937 random(7);
  for (int i = 0; i < n_flips; ++i) {
    std::vector<std::byte> input = bytes;
    const int n_edits = 1 + static_cast<int>(random() % 4);
    for (int e = 0; e < n_edits; ++e)
      input[random() % input.size()] = static_cast<std::byte>(random());
    feed(input);
  }
  return refused;
}

}  // namespace kt::io::testing
