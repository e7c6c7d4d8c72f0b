// A plug-in's operators beside the ones that ship, on the same weights; and libraries that are
// wrong in one way each.
#include "operators/plugin.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "operators/builder.h"
#include "operators/test_source.h"

namespace kt::operators {
namespace {

std::string library(const std::string& name) {
  return std::string(KT_PLUGIN_FOLDER) + "/libplugin_" + name + ".so";
}

template <class F>
std::string error_of(ErrorCode code, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks: " << part;
}

class PluginTest : public testing::Test {
 protected:
  static constexpr std::int64_t kIn = 64, kOut = 48, kRows = 7;

  PluginTest() : cpu_(2, {}, detect_caps(), backend::ActPolicy::kF32), source_({}) {
    load_plugin(*catalogue_, library("good"));
    placement_ = Placement(catalogue_);
    for (float& v : x_) v = normal_(random_);
  }

  Placement::Entry& place(const std::string& path, const std::string& op) {
    Placement::Entry& entry = placement_.entries[path];
    entry.op = op;
    return entry;
  }
  void load(Module& module) {
    Loader loader(source_, cpu_, {});
    walk(module, [&](Module& m) { m.load(loader); });
    loader.check_all_used();
  }
  Builder builder() const { return Builder("", placement_, nullptr); }
  ConstMatrixF input() const { return {x_.data(), kRows, kIn, kIn}; }

  template <class F>
  std::vector<float> run(std::int64_t n_cols, F&& f) {
    const std::vector<std::int32_t> tokens(kRows, 0);
    const Batch batch{tokens, tokens, {}, {}};
    tensor::Arena arena;
    Step step{batch, cpu_, arena, {}, &trace_};
    std::vector<float> out(static_cast<std::size_t>(kRows * n_cols), 9.0f);
    Activation rows = Activation::on(step, {out.data(), kRows, n_cols, n_cols});
    f(step, rows);
    return out;
  }

  static void expect_near(const std::vector<float>& a, const std::vector<float>& b,
                          float factor = 1.0f, float shift = 0.0f) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], factor * b[i] + shift, 2e-4f) << i;
  }

  backend::Cpu cpu_;
  TestSource source_;
  std::shared_ptr<Catalogue> catalogue_ = std::make_shared<Catalogue>();
  Placement placement_;
  Trace trace_{64};
  std::mt19937 random_{3};
  std::normal_distribution<float> normal_;
  std::vector<float> x_ = std::vector<float>(kRows * kIn);
};

TEST_F(PluginTest, RowsSayWhatTheTableSays) {
  const OperatorRow* row = catalogue_->find("fixture.ScaledLinear");
  ASSERT_NE(row, nullptr);
  EXPECT_TRUE(row->from_plugin);
  EXPECT_EQ(row->class_path(), "fixture.ScaledLinear");
  EXPECT_EQ(row->kind, "Linear");
  EXPECT_TRUE(row->runs_on("cpu") && !row->runs_on("cuda:0"));
  EXPECT_TRUE(row->takes("factor") && row->takes("negate") && !row->takes("num_bits"));
  EXPECT_TRUE(row->fits("llama"));
  EXPECT_EQ(catalogue_->find("fixture.PlainNorm")->kind, "Norm");
  EXPECT_EQ(catalogue_->find("fixture.PlainMlp")->kind, "Mlp");
  // The defaults stay those that ship.
  EXPECT_EQ((catalogue_->first<Linear, LinearSpec>("cpu")->name), "KLinearCPUInfer");
}

TEST_F(PluginTest, LinearWithKeywordArguments) {
  source_.add("a.weight", {kOut, kIn}, 0.1f);
  source_.add("a.bias", {kOut}, 1.0f);
  const auto linear_of = [&](const std::string& op) {
    place("a", op);
    return builder().linear("a", kOut, kIn, true);
  };
  placement_.entries["a"].kwargs = {
      {"factor", 2.5}, {"negate", true}, {"shift", std::int64_t{3}}, {"misuse", std::monostate()}};
  const auto mine = linear_of("fixture.ScaledLinear");
  const auto theirs = linear_of("KLinearTorch");
  load(*mine);
  load(*theirs);
  const auto result = [&](Linear& linear) {
    return run(kOut, [&](Step& step, Activation& out) {
      Activation x(step, input());
      linear.run(step, x, out);
    });
  };
  const std::vector<float> from_mine = result(*mine);
  expect_near(from_mine, result(*theirs), -2.5f, 3.0f);
  EXPECT_EQ(mine->op(), "ScaledLinear");
  EXPECT_EQ(mine->weight_bytes(), (kOut * kIn + kOut) * sizeof(float));
  EXPECT_EQ(mine->weight_format(), "F32");
  EXPECT_EQ(mine->kernel_name(), "plug-in fixture");
  ASSERT_EQ(trace_.zones().size(), 2u);
  EXPECT_EQ(trace_.zones()[0].module, mine.get());
  // Beside a built-in sibling, which may share a parallel region.
  const auto both = run(kOut, [&](Step& step, Activation& out) {
    Activation x(step, input()), other(step, kRows, kOut);
    const LinearCall calls[] = {{theirs.get(), &other}, {mine.get(), &out}};
    run_siblings(step, x, calls);
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t i = 0; i < kOut; ++i)
        out.update().row(r)[i] += 2.5f * other.f32().row(r)[i];
    }
  });
  expect_near(both, std::vector<float>(both.size(), 3.0f));
  mine->unload();
  EXPECT_EQ(mine->weight_bytes(), 0u);
  load(*mine);
  expect_near(result(*mine), result(*theirs), -2.5f, 3.0f);
}

TEST_F(PluginTest, NormAddsTheDeltaFirstAndNormsVectors) {
  source_.add("n.weight", {kIn}, 1.0f);
  std::vector<float> delta_values(x_.size());
  for (float& v : delta_values) v = normal_(random_);
  std::vector<std::vector<float>> rows, vectors, residuals;
  for (const char* op : {"fixture.PlainNorm", "KRMSNorm"}) {
    place("n", op);
    const auto norm = builder().norm("n", kIn, 1e-5);
    load(*norm);
    std::vector<float> residual = x_;
    rows.push_back(run(kIn, [&](Step& step, Activation& out) {
      Activation delta(step, {delta_values.data(), kRows, kIn, kIn});
      Activation sum = Activation::on(step, {residual.data(), kRows, kIn, kIn});
      norm->run(step, sum, &delta, out);
    }));
    residuals.push_back(residual);
    std::vector<float> in_place = x_;
    run(kIn, [&](Step& step, Activation&) {  // every other row
      norm->run_vectors(step, in_place.data(), kRows / 2, 2 * kIn);
    });
    vectors.push_back(in_place);
  }
  expect_near(rows[0], rows[1]);
  expect_near(residuals[0], residuals[1]);
  expect_near(vectors[0], vectors[1]);
  EXPECT_NE(vectors[0], x_);
}

TEST_F(PluginTest, MlpReadsTheTensorsBelowItsPath) {
  source_.add("mlp.gate_proj.weight", {96, kIn}, 0.2f);
  source_.add("mlp.up_proj.weight", {96, kIn}, 0.2f);
  source_.add("mlp.down_proj.weight", {kIn, 96}, 0.2f);
  std::vector<std::vector<float>> results;
  for (const char* op : {"fixture.PlainMlp", "KGatedMLP"}) {
    place("mlp", op);
    const auto mlp = builder().mlp("mlp", {kIn, 96, false});
    load(*mlp);
    results.push_back(run(kIn, [&](Step& step, Activation& out) {
      Activation x(step, input());
      mlp->run(step, x, out);
    }));
  }
  expect_near(results[0], results[1]);
}

TEST_F(PluginTest, RefusalsNameModuleAndOperator) {
  source_.add("a.weight", {kOut, kIn}, 0.1f);
  source_.add("other.weight", {kOut, kIn}, 0.1f);
  Placement::Entry& entry = place("a", "fixture.ScaledLinear");
  const auto build = [&] { return builder().linear("a", kOut, kIn); };
  entry.kwargs = {{"factor", std::int64_t{0}}};
  expect_contains(error_of(ErrorCode::kUnsupported, build),
                  "a: operator fixture.ScaledLinear refuses this module: factor is 0, nothing");
  const std::pair<Kwargs, std::string> kWrongTypes[] = {
      {{{"factor", std::string("much")}},
       "factor of operator fixture.ScaledLinear is not a number"},
      {{{"negate", std::int64_t{1}}}, "negate of operator fixture.ScaledLinear is not True or"},
      {{{"shift", 0.5}}, "shift of operator fixture.ScaledLinear is not a whole number"},
      {{{"misuse", true}}, "misuse of operator fixture.ScaledLinear is not text"}};
  for (const auto& [kwargs, message] : kWrongTypes) {
    entry.kwargs = kwargs;
    expect_contains(error_of(ErrorCode::kUsage, build), message);
  }
  const std::pair<std::string, std::string> kMisuses[] = {
      {"stranger", "could not load: tensor 'other.weight' is missing"},
      {"rows", "could not load: rows 47 to 49 of 'a.weight' were asked for, which has 48"},
      {"lazy", "did not read the module's tensor 'a.weight'"},
      {"int", "an exception that is no std::exception"},
      {"terminal", R"(could not load: no \x1b[2J \xc2\x9b31m \xff größer)"}};
  for (const auto& [misuse, message] : kMisuses) {
    entry.kwargs = {{"misuse", misuse}};
    const auto linear = build();
    expect_contains(error_of(ErrorCode::kMismatch, [&] { load(*linear); }), message);
  }
}

TEST_F(PluginTest, NamesOfFormatsCannotSteerTheTerminal) {
  source_.add("a.weight", {kOut, kIn}, 0.1f);
  place("a", "fixture.ScaledLinear").kwargs = {{"misuse", std::string("format")}};
  const auto linear = builder().linear("a", kOut, kIn);
  load(*linear);
  EXPECT_EQ(linear->weight_format(), R"(\x1b[31mF\xff)");
}

TEST_F(PluginTest, APluginInCThatRefusesWithoutAReason) {
  load_plugin(*catalogue_, library("broken_17"));
  place("a", "broken.Broken");
  expect_contains(error_of(ErrorCode::kUnsupported, [&] { builder().linear("a", kOut, kIn); }),
                  "operator broken.Broken refuses this module: it gave no reason");
}

TEST_F(PluginTest, AModuleOutlivesItsCatalogue) {
  source_.add("a.weight", {kOut, kIn}, 0.1f);
  place("a", "fixture.ScaledLinear");
  const auto linear = builder().linear("a", kOut, kIn);
  load(*linear);
  placement_ = Placement();
  catalogue_.reset();
  EXPECT_GT(linear->weight_bytes(), 0u);
  linear->unload();
}

TEST_F(PluginTest, TheSamePluginTwiceIsAnError) {
  const std::size_t n = catalogue_->rows().size();
  expect_contains(error_of(ErrorCode::kUsage, [&] { load_plugin(*catalogue_, library("good")); }),
                  "there is already an operator class 'ScaledLinear'");
  EXPECT_EQ(catalogue_->rows().size(), n);
}

TEST(PluginFile, WrongLibrariesGetOneClearError) {
  struct Case {
    ErrorCode code;
    const char* message;
  };
  using enum ErrorCode;
  // In the order of broken.c.
  const Case kCases[] = {{kBadFile, "without the function kt_plugin_entry"},
                         {kBadFile, "returned no plug-in table"},
                         {kBadFile, "returned no plug-in table"},
                         {kUnsupported, "for version 99 of the table, this kt has version 1"},
                         {kUnsupported, "rebuild it"},
                         {kBadFile, "no name of letters"},
                         {kBadFile, "has 0 operators"},
                         {kUnsupported, "an operator row of the plug-in has 0 bytes"},
                         {kUnsupported, "an operator row of the plug-in has 8 bytes"},
                         {kBadFile, "no name of letters"},
                         {kUnsupported, "is of kind 77"},
                         {kBadFile, "lacks one of create"},
                         {kUnsupported, "names other devices"},
                         {kBadFile, "has 100000 keyword arguments"},
                         {kBadFile, "keyword argument 2"},
                         {kUnsupported, "keyword argument 'one' of operator 'Broken' is of type 9"},
                         {kUsage, "there is already an operator class 'KLinearTorch'"}};
  for (std::size_t i = 0; i < std::size(kCases); ++i) {
    Catalogue catalogue;
    const std::size_t n = catalogue.rows().size();
    const std::string path = library("broken_" + std::to_string(i));
    const std::string message = error_of(kCases[i].code, [&] { load_plugin(catalogue, path); });
    expect_contains(message, kCases[i].message);
    expect_contains(message, path);
    EXPECT_EQ(catalogue.rows().size(), n);
  }
}

TEST(PluginFile, FilesThatAreNoLibraries) {
  Catalogue catalogue;
  const auto refused = [&](ErrorCode code, const std::string& path) {
    return error_of(code, [&] { load_plugin(catalogue, path); });
  };
  expect_contains(refused(ErrorCode::kNotFound, "nowhere/libmine.so"), "no such file");
  expect_contains(refused(ErrorCode::kUsage, KT_PLUGIN_FOLDER), "is no regular file");
  const auto folder = std::filesystem::temp_directory_path();
  const std::string text = folder / "kt_plugin_test_text.so";
  std::ofstream(text) << "int main() {}\n";
  expect_contains(refused(ErrorCode::kBadFile, text), "cannot be opened as a plug-in");
  // A library cut short anywhere, and one with a wrong program header.
  const std::string cut = folder / "kt_plugin_test_cut.so";
  const auto copy = [&] {
    std::filesystem::copy_file(library("good"), cut,
                               std::filesystem::copy_options::overwrite_existing);
  };
  for (const std::uintmax_t size : {0, 30, 64, 100, 700, 5000, 12000}) {
    copy();
    std::filesystem::resize_file(cut, size);
    expect_contains(refused(ErrorCode::kBadFile, cut), "cannot be opened as a plug-in");
  }
  copy();
  std::fstream(cut, std::ios::in | std::ios::out | std::ios::binary).seekp(64 + 8)
      << "\xff\xff\xff\xff\xff\xff\xff\xff";
  expect_contains(refused(ErrorCode::kBadFile, cut), "it is cut short");
  std::filesystem::remove(text);
  std::filesystem::remove(cut);
}

}  // namespace
}  // namespace kt::operators
