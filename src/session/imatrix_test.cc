// Importance matrices in both file forms, and damaged files.
#include "session/imatrix.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

#include "io/gguf_writer.h"
#include "io/test_files.h"

namespace kt::session {
namespace {

using io::testing::TemporaryFolder;

struct Entry {
  std::string name;
  std::int32_t n_calls;
  std::vector<float> sums;
};

template <class T>
void put(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

std::string legacy(const std::vector<Entry>& entries) {
  std::string out;
  put(out, static_cast<std::int32_t>(entries.size()));
  for (const Entry& e : entries) {
    put(out, static_cast<std::int32_t>(e.name.size()));
    out += e.name;
    put(out, e.n_calls);
    put(out, static_cast<std::int32_t>(e.sums.size()));
    for (const float v : e.sums) put(out, v);
  }
  return out;
}

class ImatrixTest : public testing::Test {
 protected:
  ImportanceMatrix open(const std::string& bytes) {
    io::testing::write_bytes(folder_ / "m.dat", std::as_bytes(std::span(bytes)));
    return ImportanceMatrix::open(folder_ / "m.dat");
  }
  // The code of the error that these bytes cause.
  ErrorCode refused(const std::string& bytes) {
    try {
      open(bytes);
    } catch (const Error& e) {
      return e.code();
    }
    ADD_FAILURE() << "accepted";
    return ErrorCode::kInternal;
  }
  struct Tensor {
    std::string name;
    tensor::Shape shape;
    std::vector<float> values;
  };
  std::string gguf(const std::vector<Tensor>& tensors) {
    const std::string path = folder_ / "m.gguf";
    io::GgufWriter writer(path);
    writer.add_string("general.type", "imatrix");
    for (const Tensor& t : tensors) writer.add_tensor(t.name, tensor::Format::kF32, t.shape);
    writer.begin_data();
    for (const Tensor& t : tensors) writer.append(std::as_bytes(std::span(t.values)));
    writer.finish();
    return path;
  }
  TemporaryFolder folder_;
};

void expect_values(const float* got, const std::vector<float>& want) {
  ASSERT_NE(got, nullptr);
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(got[i], want[i]) << i;
}

TEST_F(ImatrixTest, LegacyValuesAreDividedByTheirCalls) {
  const ImportanceMatrix m =
      open(legacy({{"blk.0.attn_q.weight", 4, {4, 8, 2}}, {"never", 0, {5, 5}}}));
  expect_values(m.find("blk.0.attn_q.weight", -1, 3), {1, 2, 0.5f});
  expect_values(m.find("never", -1, 2), {1, 1});  // nothing seen: all columns alike
  EXPECT_EQ(m.find("blk.0.attn_k.weight", -1, 3), nullptr);
  EXPECT_EQ(m.find("blk.0.attn_q.weight", -1, 4), nullptr);
  EXPECT_EQ(m.find("blk.0.attn_q.weight", -1, 1), nullptr);
}

TEST_F(ImatrixTest, StacksHaveARowPerExpert) {
  const ImportanceMatrix m = open(legacy({{"blk.0.ffn_up_exps.weight", 1, {1, 2, 3, 4, 5, 6}}}));
  expect_values(m.find("blk.0.ffn_up_exps.weight", 0, 2), {1, 2});
  expect_values(m.find("blk.0.ffn_up_exps.weight", 2, 2), {5, 6});
  EXPECT_EQ(m.find("blk.0.ffn_up_exps.weight", 3, 2), nullptr);
  EXPECT_EQ(m.find("blk.0.ffn_up_exps.weight", 0, 4), nullptr);  // six are no rows of four
  expect_values(m.find("blk.0.ffn_up_exps.weight", 1, 6), {1, 2, 3, 4, 5, 6});  // one row for all
}

TEST_F(ImatrixTest, GgufSumsAreDividedByCounts) {
  const ImportanceMatrix m = ImportanceMatrix::open(gguf({{"a.in_sum2", {1, 3}, {2, 4, 6}},
                                                          {"a.counts", {1, 1}, {2}},
                                                          {"e.counts", {2, 1}, {4, 0}},
                                                          {"e.in_sum2", {2, 2}, {4, 8, 9, 9}}}));
  expect_values(m.find("a", -1, 3), {1, 2, 3});
  expect_values(m.find("e", 0, 2), {1, 2});
  expect_values(m.find("e", 1, 2), {1, 1});  // an expert that was never chosen
}

TEST_F(ImatrixTest, GgufFilesThatMakeNoSense) {
  const auto refused = [&](const std::vector<Tensor>& tensors) {
    try {
      ImportanceMatrix::open(gguf(tensors));
      return false;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kBadFile) << e.what();
      return true;
    }
  };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({{"a.weight", {2}, {1, 2}}}));
  EXPECT_TRUE(refused({{"a.in_sum2", {2}, {1, 2}}}));  // no counts
  EXPECT_TRUE(
      refused({{"a.in_sum2", {3}, {1, 2, 3}}, {"a.counts", {2}, {1, 1}}}));  // counts do not divide
  EXPECT_TRUE(refused({{"a.in_sum2", {2}, {1, -2}}, {"a.counts", {1}, {1}}}));
  EXPECT_TRUE(refused(
      {{"a.in_sum2", {1}, {std::numeric_limits<float>::infinity()}}, {"a.counts", {1}, {1}}}));
  // A count below the smallest normal number overflows the mean.
  EXPECT_TRUE(refused({{"a.in_sum2", {1}, {1e30f}}, {"a.counts", {1}, {1e-30f}}}));
}

TEST_F(ImatrixTest, DamagedLegacyFiles) {
  const std::string good = legacy({{"blk.0.attn_q.weight", 4, {4, 8, 2}}, {"b", 1, {1}}});
  EXPECT_NO_THROW(open(good));
  for (std::size_t n = 0; n < good.size(); ++n)
    EXPECT_EQ(refused(good.substr(0, n)), ErrorCode::kBadFile) << n;
  const auto with = [&](std::size_t at, std::int32_t value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return bytes;
  };
  const std::size_t name_length = 4, n_values = 4 + 4 + 19 + 4;
  for (const std::int32_t bad : {-1, 0, std::numeric_limits<std::int32_t>::min(),
                                 std::numeric_limits<std::int32_t>::max()}) {
    EXPECT_EQ(refused(with(0, bad)), ErrorCode::kBadFile) << bad;
    EXPECT_EQ(refused(with(name_length, bad)), ErrorCode::kBadFile) << bad;
    EXPECT_EQ(refused(with(n_values, bad)), ErrorCode::kBadFile) << bad;
  }
  EXPECT_EQ(refused(legacy({{"a", 1, {-1}}})), ErrorCode::kBadFile);
  EXPECT_EQ(refused(legacy({{"a", 1, {std::numeric_limits<float>::quiet_NaN()}}})),
            ErrorCode::kBadFile);
  EXPECT_EQ(refused("GGUF"), ErrorCode::kBadFile);
  EXPECT_EQ(refused("GGUF and then nothing that makes sense at all"),
            ErrorCode::kUnsupported);  // its version
}

TEST_F(ImatrixTest, RandomBytesAreRefusedOrRead) {
  std::mt19937 random(1);
  const std::string good = legacy({{"blk.0.attn_q.weight", 4, {4, 8, 2}}, {"b", 1, {1}}});
  for (int round = 0; round < 200; ++round) {
    std::string bytes = good;
    for (int i = 0; i < 3; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    try {
      open(bytes);
    } catch (const Error& e) {
      EXPECT_NE(e.code(), ErrorCode::kInternal) << e.what();
    }
  }
}

TEST_F(ImatrixTest, AMissingFileIsNotFound) {
  try {
    ImportanceMatrix::open(folder_ / "none.dat");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNotFound);
  }
}

}  // namespace
}  // namespace kt::session
