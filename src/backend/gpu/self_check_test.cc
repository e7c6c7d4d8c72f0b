// What the self-check and the rates say of stand-ins (test_fixtures/fake_gpu.cc) that have products
// alone: right ones, wrong ones, failing ones.
#include "backend/gpu/self_check.h"

#include <gtest/gtest.h>

#include "backend/gpu/rates.h"
#include "backend/gpu/test_fixtures/fake_gpu.h"

namespace kt::backend {
namespace {

using Outcome = GpuCheck::Outcome;

std::string fake(const std::string& kind) {
  return std::string(KT_FAKE_GPU_FOLDER) + "/libfake_gpu_" + kind + ".so";
}

std::vector<GpuCheck> check(const std::string& kind) {
  Gpu gpu(GpuLibrary::open(fake(kind)), 0, kGpuCheckBytes);
  const std::vector<GpuCheck> checks = check_gpu(gpu, common_gpu_kernels());
  EXPECT_EQ(gpu.used(), 0u);
  return checks;
}

const GpuCheck& find(const std::vector<GpuCheck>& checks, const std::string& what) {
  for (const GpuCheck& c : checks) {
    if (c.what == what) return c;
  }
  ADD_FAILURE() << "no check of " << what;
  return checks.front();
}

TEST(GpuSelfCheck, AgreesAndSaysWhatIsAbsent) {
  const std::vector<GpuCheck> checks = check("good");
  for (const char* what : {"BF16, 1 row", "Q4_K, 8 rows", "I4_128, 64 rows"}) {
    EXPECT_EQ(find(checks, what).outcome, Outcome::kAgrees) << what;
    EXPECT_EQ(find(checks, what).error, 0.0);
  }
  EXPECT_EQ(find(checks, "Q4_K, 128 rows").outcome, Outcome::kAbsent);
  EXPECT_EQ(find(checks, "Q4_K, 128 rows").problem, "cuBLASLt was not found");
  EXPECT_EQ(find(checks, "Q4_K beside Q6_K, 1 row").outcome, Outcome::kAgrees);
  EXPECT_EQ(find(checks, "MLA 576+512, 1 row").outcome, Outcome::kAbsent);
  EXPECT_EQ(find(checks, "GQA 128+128, 17 rows").family, "attention");
  EXPECT_EQ(find(checks, "Q4_K and Q6_K").problem, "no kernel");
  EXPECT_EQ(checks.back().family, "lists");
  EXPECT_EQ(checks.back().outcome, Outcome::kAbsent);
}

TEST(GpuSelfCheck, ChecksWhatItIsAsked) {
  Gpu gpu(GpuLibrary::open(fake("good")), 0, kGpuCheckBytes);
  const GpuKernels kernels{{formats::Format::kIQ4_XS},
                           {{formats::Format::kQ5_K, formats::Format::kQ6_K}},
                           {},
                           {{64, 64}, {64, 64, false, kernels::cuda::CacheType::kE4M3}}};
  std::vector<std::string> what;
  for (const GpuCheck& c : check_gpu(gpu, kernels)) what.push_back(c.family + " " + c.what);
  EXPECT_EQ(what,
            (std::vector<std::string>{
                "products IQ4_XS, 1 row", "products IQ4_XS, 8 rows", "products IQ4_XS, 64 rows",
                "products IQ4_XS, 128 rows", "experts Q5_K and Q6_K", "attention GQA 64+64, 1 row",
                "attention GQA 64+64, 17 rows", "attention GQA 64+64 in E4M3, 1 row",
                "attention GQA 64+64 in E4M3, 17 rows"}));
}

TEST(GpuSelfCheck, SeesWrongAndFailingKernels) {
  const std::vector<GpuCheck> wrong = check("wrong_results");
  EXPECT_EQ(find(wrong, "Q6_K, 8 rows").outcome, Outcome::kDiffers);
  EXPECT_NEAR(find(wrong, "Q6_K, 8 rows").error, 0.1, 1e-3);
  std::string problem;
  const auto object = SharedObject::open(fake("good"), SharedObject::Unload::kNever, &problem);
  auto* settings = static_cast<FakeGpuSettings*>(object->symbol("fake_gpu_settings"));
  settings->failing = "gemm";
  const std::vector<GpuCheck> failing = check("good");
  settings->failing = nullptr;
  EXPECT_EQ(find(failing, "Q8_0, 1 row").outcome, Outcome::kFailed);
  EXPECT_EQ(find(failing, "Q8_0, 1 row").problem,
            "GPU 0 (Stand-in GPU): kernel: the device failed: the stand-in was told to fail");
}

TEST(GpuRates, MeasuresWhatFits) {
  const auto library = GpuLibrary::open(fake("good"));
  {
    Gpu gpu(library, 0, std::size_t{9} << 20);
    const GpuRates rates = measure_gpu(gpu);
    EXPECT_GT(rates.read, 0.0);
    EXPECT_GT(rates.to_device, 0.0);
    EXPECT_GT(rates.to_host, 0.0);
    EXPECT_EQ(gpu.used(), 0u);
  }
  Gpu small(library, 0, 1 << 20);
  EXPECT_EQ(measure_gpu(small).read, 0.0);
}

}  // namespace
}  // namespace kt::backend
