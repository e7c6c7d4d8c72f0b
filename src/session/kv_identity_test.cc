// What names pages of a cache on disk: all that their rows depend on.
#include "session/kv_identity.h"

#include <gtest/gtest.h>

#include <set>

namespace kt::session {
namespace {

std::vector<std::unique_ptr<backend::Gpu>> gpu(const std::string& kind, int index) {
  const auto library = backend::GpuLibrary::open(KT_FAKE_GPU_FOLDER "/libfake_gpu_" + kind + ".so");
  std::vector<std::unique_ptr<backend::Gpu>> one;
  one.push_back(std::make_unique<backend::Gpu>(library, index, std::size_t{1} << 20));
  return one;
}

TEST(KvIdentity, HoldsWhatRowsDependOn) {
  Options options;
  options.model = KT_SOURCE_DIR "/models/tiny-moe/tiny-moe-q4_k_m.gguf";
  options.n_threads = 1;
  options.gpus = 0;
  options.context = 128;
  options.need_text = false;
  const auto session = Session::open(options);
  const std::string alone = kv_identity(*session, options, {512, {}});
  EXPECT_EQ(kv_identity(*session, options, {512, {}}), alone);
  EXPECT_NE(kv_identity(*session, options, {256, {}}), alone) << "other steps";
  std::set<std::string> names = {alone};
  const auto first = gpu("whole", 0), second = gpu("whole", 1), other = gpu("whole_wrong", 0);
  for (const auto* gpus : {&first, &second, &other})
    names.insert(kv_identity(*session, options, {512, *gpus}));
  EXPECT_EQ(names.size(), 4u) << "GPUs and their plug-ins";
  EXPECT_EQ(kv_identity(*session, options, {512, first}),
            kv_identity(*session, options, {512, first}));
  options.kv = "bf16";
  EXPECT_NE(kv_identity(*session, options, {512, {}}), alone);
}

}  // namespace
}  // namespace kt::session
