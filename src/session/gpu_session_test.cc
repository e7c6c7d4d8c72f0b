// A model on GPUs, which are stand-ins (backend/gpu/test_fixtures): memory that is too little, and
// kernels that fail in the middle.
#include <gtest/gtest.h>

#include "backend/gpu/test_fixtures/fake_gpu.h"
#include "base/shared_object.h"
#include "session/session.h"

namespace kt::session {
namespace {

const char* const kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";

class GpuSession : public ::testing::Test {
 protected:
  GpuSession()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        settings_(*static_cast<backend::FakeGpuSettings*>(object_->symbol("fake_gpu_settings"))) {}
  ~GpuSession() override { settings_.failing = nullptr; }

  static std::unique_ptr<Session> open(std::uint64_t gpu_memory = 0, std::int64_t chunk = 128) {
    Options options;
    options.n_threads = 2;
    options.gpu_plugin = kPlugin;
    options.gpu_memory = gpu_memory;
    options.chunk_size = chunk;
    return Session::open_dummy(options, KT_SOURCE_DIR "/tests/data/golden_configs/qwen3_moe.json",
                               "Q8_0", 0);
  }
  static engine::Request request() {
    engine::Request request;
    request.prompt = {1, 2, 3, 4, 5};
    request.sampling.temperature = 0.0f;
    request.max_tokens = 8;
    request.ignore_stop_tokens = true;
    return request;
  }

  std::string problem_;
  std::unique_ptr<SharedObject> object_;  // the same that sessions open
  backend::FakeGpuSettings& settings_;
};

TEST_F(GpuSession, ReservesAllAtOnceAndSaysSo) {
  const auto session = open(std::uint64_t{1} << 30);
  EXPECT_NE(session->load_report().gpus.find("cuda:0: Stand-in GPU"), std::string::npos);
  EXPECT_NE(session->load_report().gpus.find("of 1.0 GiB reserved"), std::string::npos);
  EXPECT_EQ(session->engine().generate(request()).tokens.size(), 8u);
}

TEST_F(GpuSession, AKernelThatFailsIsAnErrorAndTheNextSessionWorks) {
  auto session = open();
  const auto wanted = session->engine().generate(request()).tokens;
  for (const char* call : {"gemm", "moe", "attention", "copy", "stream_synchronize"}) {
    settings_.failing = call;
    try {
      session->engine().generate(request());
      ADD_FAILURE() << call << ": no error";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("the device failed"), std::string::npos) << e.what();
    }
    settings_.failing = nullptr;
    session = nullptr;
    session = open();
    EXPECT_EQ(session->engine().generate(request()).tokens, wanted) << call;
  }
}

TEST_F(GpuSession, PromptsOfManyChunksAndPagesThatAreShared) {
  engine::Request many = request();
  many.prompt.resize(100);
  for (std::size_t i = 0; i < many.prompt.size(); ++i)
    many.prompt[i] = static_cast<std::int32_t>(i * 7 % 200);
  std::vector<std::int32_t> wanted;
  for (const std::int64_t chunk : {128, 16}) {
    const auto session = open(0, chunk);
    const auto tokens = session->engine().generate(many).tokens;
    EXPECT_EQ(tokens.size(), 8u);
    if (wanted.empty()) wanted = tokens;
    EXPECT_EQ(tokens, wanted);
    const engine::Result again = session->engine().generate(many);
    EXPECT_EQ(again.tokens, wanted);
    EXPECT_EQ(again.n_cached, 99);
  }
}

TEST_F(GpuSession, SomeoneElsesMemoryIsNotCountedOn) {
  settings_.taken_bytes = settings_.total_bytes - (std::size_t{600} << 20);
  const auto session = open();  // too little is left to be worth it
  EXPECT_TRUE(session->load_report().gpus.empty());
  settings_.taken_bytes = 0;
}

}  // namespace
}  // namespace kt::session
