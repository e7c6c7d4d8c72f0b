// The parts of the kernel bench that are pure: statistics, case list, routing, baselines.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "session/bench/layer_source.h"
#include "session/bench/report.h"
#include "session/bench/routing.h"

namespace kt::session::bench {
namespace {

TEST(Statistics, MedianAndSpread) {
  const Summary s = summarize({5, 1, 2, 3, 4, 11, 10, 9, 8, 7, 6});
  EXPECT_DOUBLE_EQ(s.median, 6);
  EXPECT_DOUBLE_EQ(s.low, 2);
  EXPECT_DOUBLE_EQ(s.high, 10);
  EXPECT_EQ(s.n, 11);
  EXPECT_DOUBLE_EQ(summarize({1, 2}).median, 1.5);
  EXPECT_DOUBLE_EQ(summarize({3}).low, 3);
  EXPECT_EQ(summarize({}).n, 0);
}

TEST(Statistics, TimesThatFallAreMarked) {
  EXPECT_EQ(slower_than_next({1.0, 2.0, 1.9, 1.95, 1.94}),
            (std::vector<bool>{false, true, false, false, false}));
  EXPECT_TRUE(slower_than_next({}).empty());
}

TEST(Cases, Sizes) {
  EXPECT_EQ(parse_sizes("--m", "8,1-3,64:512,2"),
            (std::vector<std::int64_t>{1, 2, 3, 8, 64, 128, 256, 512}));
  EXPECT_EQ(parse_sizes("--m", "3:20"), (std::vector<std::int64_t>{3, 6, 12}));
  for (const char* bad : {"", "0", "x", "1,,2", "4-2", "1-", "-3", "1:x", "99999999", "2 "}) {
    EXPECT_THROW(parse_sizes("--m", bad), Error) << bad;
  }
}

TEST(Cases, Shapes) {
  EXPECT_EQ(parse_shape("deepseek-v3").d_model, 7168);
  const LayerShape own = parse_shape("256x512:8:2");
  EXPECT_EQ(own.d_model, 256);
  EXPECT_EQ(own.d_ff, 512);
  EXPECT_EQ(own.n_experts, 8);
  EXPECT_EQ(own.n_active, 2);
  for (const char* bad : {"qwen", "256x512", "256x512:8", "256x512:2:8", "x512:8:2", "1x1:1:1:1"}) {
    EXPECT_THROW(parse_shape(bad), Error) << bad;
  }
}

TEST(Cases, Formats) {
  EXPECT_EQ(parse_format("Q4_K").stored, formats::Format::kQ4_K);
  EXPECT_TRUE(parse_format("bf16").backend.empty());
  EXPECT_EQ(parse_format("int8").backend, "AMXInt8");
  EXPECT_EQ(parse_format("int4").recode.target(formats::Format::kBF16), formats::Format::kQ4_0);
  EXPECT_THROW(parse_format("q9"), Error);
}

std::vector<std::string> names(const Selection& selection, CpuCaps caps) {
  std::vector<std::string> all;
  for (const Case& c : select_cases(selection, caps)) all.push_back(c.name());
  return all;
}

constexpr CpuCaps kWide = kAvx2 | kAvx512 | kAvx512Vnni;

TEST(Cases, FilterFormatsAndShapes) {
  EXPECT_EQ(
      names({"^moe", {}, {}}, kWide),
      (std::vector<std::string>{"moe q4_k qwen3-30b", "moe q8_0 qwen3-30b", "moe bf16 qwen3-30b"}));
  EXPECT_EQ(names({"Q4_K", {}, {"deepseek-v3"}}, kWide),
            (std::vector<std::string>{
                "moe q4_k deepseek-v3", "dot_f32_q8_q4_k_n16_avx512 deepseek-v3",
                "dot_f32_q8_q4_k_n16_avx2 deepseek-v3", "dot_f32_q16_q4_k_n16_avx2 deepseek-v3"}));
  EXPECT_EQ(
      names({"", {"q8_0"}, {}}, kAvx2),
      (std::vector<std::string>{
          "moe q8_0 qwen3-30b", "attention q8_0 qwen3-30b 2048", "attention q8_0 qwen3-30b 8192",
          "dot_f32_q8_q8_0_n16_avx2 qwen3-30b", "dot_f32_q16_q8_0_n16_avx2 qwen3-30b"}));
  // Both have matrices [2048, 7168].
  EXPECT_EQ(names({"^dot.*avx512", {"q8_0"}, {"deepseek-v3", "kimi-k2"}}, kWide).size(), 1u);
  EXPECT_THROW(names({"nothing like it", {}, {}}, kWide), Error);
  for (const std::string& bad :
       {std::string("("), std::string(100000, '('), std::string("(.+.+)+#")})
    EXPECT_THROW(names({bad, {}, {}}, kWide), Error);
  EXPECT_THROW(names({"", {"q9"}, {}}, kWide), Error);
  EXPECT_THROW(names({"", {}, {"gpt"}}, kWide), Error);
}

TEST(Cases, LayersThatDoNotSuitTheirShape) {
  EXPECT_EQ(names({"^moe", {}, {"96x64:4:2"}}, kWide),
            (std::vector<std::string>{"moe q8_0 96x64:4:2", "moe bf16 96x64:4:2"}));
  EXPECT_THROW(names({"^moe", {"q4_k"}, {"96x64:4:2"}}, kWide), Error);
  EXPECT_THROW(names({"^moe", {"int8"}, {"80x64:4:2"}}, kWide), Error);
}

TEST(Cases, EveryRowThatRunsIsThere) {
  std::size_t n_rows = 0;
  for (const auto& row : kernels::dot::kernels()) {
    n_rows += row.caps != 0 && (kWide & row.caps) == row.caps;
  }
  EXPECT_EQ(names({"^dot", {}, {}}, kWide).size(), n_rows);
  for (const std::string& name : names({"^dot", {}, {}}, kWide))
    EXPECT_EQ(name.find("_ref"), std::string::npos);
  EXPECT_FALSE(names({"q4_k.*_ref", {}, {}}, kWide).empty());
  EXPECT_FALSE(names({"^dot", {}, {}}, 0).empty());
}

TEST(Routing, ASingleRowMeetsEveryExpertBeforeOneRepeats) {
  RoutingSequence routing(2, 12, 4);
  for (int round = 0; round < 3; ++round) {
    std::set<std::pair<std::int64_t, std::int32_t>> met;
    for (int call = 0; call < 6; ++call) {
      const RoutedRows rows = routing.next(1);
      EXPECT_EQ(rows.n_distinct, 4);
      for (const std::int32_t id : rows.ids) met.insert({rows.layer, id});
    }
    EXPECT_EQ(met.size(), 24u);
  }
}

TEST(Routing, ExpertsOfARowAreDistinctAndWeightsSumToOne) {
  RoutingSequence routing(1, 10, 3);
  const RoutedRows rows = routing.next(50);
  for (std::size_t r = 0; r < 50; ++r) {
    EXPECT_EQ(std::set<std::int32_t>(rows.ids.begin() + static_cast<std::ptrdiff_t>(3 * r),
                                     rows.ids.begin() + static_cast<std::ptrdiff_t>(3 * r + 3))
                  .size(),
              3u);
    EXPECT_NEAR(rows.weights[3 * r] + rows.weights[3 * r + 1] + rows.weights[3 * r + 2], 1.0, 1e-5);
  }
  EXPECT_EQ(rows.n_distinct, 10);
}

TEST(LayerSource, RowsHaveTheirVariance) {
  ThreadPool pool(1, {});
  const LayerShape shape = parse_shape("64x96:2:1");
  for (const char* name : {"bf16", "q8_0", "int8"}) {
    const LayerSource source(pool, shape, parse_format(name), 1);
    EXPECT_EQ(source.tensors().size(), 6u);
    double sum = 0.0;
    for (const io::TensorInfo& info : source.tensors()) {
      for (std::int64_t r = 0; r < info.shape.n_rows(); ++r) {
        for (const float v : source.values(info, r))
          sum += static_cast<double>(v) * static_cast<double>(v);
      }
    }
    // Variance 1 / n_cols: each row adds about 1.
    EXPECT_NEAR(sum, 2 * (96 + 96 + 64), 40) << name;
  }
  EXPECT_THROW(LayerSource(pool, shape, parse_format("q4_k"), 1), Error);
}

TEST(MoeSubject, ErrorOfALayerIsSmall) {
  const std::pair<backend::ActPolicy, const char*> cases[] = {{backend::ActPolicy::kQ8, "q8_0"},
                                                              {backend::ActPolicy::kF32, "q8_0"},
                                                              {backend::ActPolicy::kF32, "int8"},
                                                              {backend::ActPolicy::kF32, "int4"}};
  for (const auto& [act, format] : cases) {
    backend::Cpu cpu(2, {}, detect_caps(), act);
    const Case what{nullptr, parse_format(format), parse_shape("64x96:6:2")};
    const auto subject = make_moe_subject(cpu, what, {1024, 1u << 26, 33});
    EXPECT_GE(subject->n_copies(), 1);
    for (const std::int64_t m : {1, 33}) {
      subject->prepare(m);
      EXPECT_LT(subject->error(), act == backend::ActPolicy::kF32 ? 1e-5 : 4e-2);
      const Sample s = subject->run();
      EXPECT_GT(s.seconds, 0.0);
      EXPECT_DOUBLE_EQ(s.operations, 6.0 * 64 * 96 * 2 * static_cast<double>(m));
    }
  }
}

TEST(MoeSubject, FewerExpertsWhereMemoryIsShort) {
  backend::Cpu cpu(1, {}, detect_caps(), backend::ActPolicy::kQ8);
  const Case what{nullptr, parse_format("bf16"), parse_shape("64x96:64:2")};
  const double expert = 3 * 64 * 96 * 2;
  const auto subject =
      make_moe_subject(cpu, what, {1 << 20, static_cast<std::uint64_t>(10.5 * expert), 1});
  EXPECT_EQ(subject->n_experts(), 10);
  EXPECT_NE(subject->note().find("10 of 64 experts"), std::string::npos);
  EXPECT_NE(subject->note().find("times the last cache level"), std::string::npos);
  EXPECT_THROW(make_moe_subject(cpu, what, {1 << 20, static_cast<std::uint64_t>(expert), 1}),
               Error);
}

TEST(Cases, AttentionInFormatsThatACacheCanHave) {
  EXPECT_EQ(names({"^attention", {}, {}}, kWide),
            (std::vector<std::string>{
                "attention f16 qwen3-30b 2048", "attention f16 qwen3-30b 8192",
                "attention bf16 qwen3-30b 2048", "attention bf16 qwen3-30b 8192",
                "attention f8_e4m3 qwen3-30b 2048", "attention f8_e4m3 qwen3-30b 8192",
                "attention q8_0 qwen3-30b 2048", "attention q8_0 qwen3-30b 8192"}));
  EXPECT_EQ(names({"^attention.*8192", {"q4_k", "q8_0", "int8"}, {"deepseek-v3"}}, kWide),
            (std::vector<std::string>{"attention q8_0 deepseek-v3 8192"}));
  EXPECT_THROW(names({"^attention", {}, {"256x512:8:2"}}, kWide), Error);
}

TEST(AttentionSubject, ErrorIsSmall) {
  backend::Cpu cpu(2, {}, detect_caps(), backend::ActPolicy::kQ8);
  LayerShape shape = parse_shape("64x64:1:1");
  for (const AttentionShape attention : {AttentionShape{6, 2, 64, 64}, {8, 1, 96, 64}}) {
    shape.attention = attention;
    for (const char* format : {"f16", "bf16", "q8_0"}) {
      const Case what{nullptr, parse_format(format), shape, 300};
      const auto subject = make_attention_subject(cpu, what, {1 << 18, 1u << 26, 40});
      EXPECT_GT(subject->n_copies(), 1);
      EXPECT_NE(subject->about().find("300 positions"), std::string::npos);
      for (const std::int64_t m : {1, 40}) {
        subject->prepare(m);
        EXPECT_LT(subject->error(), 5e-3) << format;
        EXPECT_GT(subject->error(), 0.0);
        const Sample s = subject->run();
        EXPECT_GT(s.seconds, 0.0);
        EXPECT_GT(s.weight_bytes, 0.0);
      }
    }
  }
  const Case what{nullptr, parse_format("f16"), shape, 300};
  EXPECT_THROW(make_attention_subject(cpu, what, {1 << 18, 1000, 40}), Error);
}

TEST(DotSubject, ErrorOfARowIsSmall) {
  backend::Cpu cpu(2, {}, detect_caps(), backend::ActPolicy::kQ8);
  for (const Case& what : select_cases({"^dot", {"q4_k", "bf16"}, {"512x80:1:1"}}, cpu.caps)) {
    const auto subject = make_dot_subject(cpu, what, {1 << 16, 1u << 26, 70});
    EXPECT_GT(subject->n_copies(), 1);
    for (const std::int64_t m : {1, 70}) {
      subject->prepare(m);
      EXPECT_LT(subject->error(), 2e-2) << what.name();
      EXPECT_GT(subject->error(), 0.0);
    }
  }
}

TEST(DotSubject, AMatrixThatDoesNotFitIsRefused) {
  backend::Cpu cpu(1, {}, detect_caps(), backend::ActPolicy::kQ8);
  const Case what = select_cases({"^dot", {"bf16"}, {"1048576x1048576:1:1"}}, cpu.caps).front();
  try {
    make_dot_subject(cpu, what, {1 << 20, std::uint64_t{1} << 34, 1});
    FAIL() << "4 TiB fit in 16 GiB";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNoMemory);
  }
}

Result result(std::int64_t m, double seconds) {
  Result r;
  r.name = "moe q4_k qwen3-30b";
  r.n_experts = 128;
  r.m = m;
  r.seconds.median = seconds;
  r.read = 1.0;
  return r;
}

TEST(Baseline, FlagsMoreThanTenPercent) {
  Machine machine;
  machine.n_threads = 4;
  machine.act = "q8";
  const std::string text = to_json(machine, {}, {result(1, 1.0), result(2, 2.0)}).dump();
  const Baseline baseline = Baseline::parse(text, "old.json");
  EXPECT_FALSE(baseline.lost(machine, result(1, 1.09)));
  EXPECT_TRUE(baseline.lost(machine, result(1, 1.11)));
  EXPECT_TRUE(baseline.lost(machine, result(2, 2.3)));
  EXPECT_DOUBLE_EQ(baseline.seconds(machine, result(2, 5.0)), 2.0);
  EXPECT_DOUBLE_EQ(baseline.seconds(machine, result(3, 5.0)), 0.0);
  EXPECT_FALSE(baseline.lost(machine, result(3, 100.0)));
  machine.n_threads = 2;  // another machine setting is no comparison
  EXPECT_FALSE(baseline.lost(machine, result(1, 100.0)));
}

TEST(Baseline, OtherFilesAreRefused) {
  EXPECT_THROW(Baseline::read("no/such/file.json"), Error);
  for (const char* bad :
       {"", "[]", "{}", R"({"version": 9})", R"({"version": 1, "machine": {}})",
        R"({"version": 1, "machine": {"n_threads": 1, "act": "q8"},
                              "results": [{"name": "x", "m": 1, "seconds": 0}]})",
        R"({"version": 1, "machine": {"n_threads": 1, "act": "q8"},
                              "results": [{"name": "x", "m": 1e300, "seconds": 1}]})",
        R"({"version": 1, "machine": {"n_threads": 1, "act": "q8"}, "results": [5]})"}) {
    EXPECT_THROW(Baseline::parse(bad, "x"), Error) << bad;
  }
}

}  // namespace
}  // namespace kt::session::bench
