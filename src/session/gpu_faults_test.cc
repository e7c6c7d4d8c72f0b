// What is wrong with GPUs, which are stand-ins (backend/gpu/test_fixtures): kernels that differ
// from their slow twins, memory that is too little, devices that fail in a step, for once or for
// good.
#include <gtest/gtest.h>

#include "backend/gpu/test_fixtures/fake_gpu.h"
#include "base/shared_object.h"
#include "session/session.h"
#include "session/worker.h"

namespace kt::session {
namespace {

const char* const kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";

class GpuFaults : public ::testing::Test {
 protected:
  GpuFaults()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        settings_(*static_cast<backend::FakeGpuSettings*>(object_->symbol("fake_gpu_settings"))) {}
  ~GpuFaults() override {
    settings_.failing = nullptr;
    settings_.failure = backend::Status::kDeviceFailed;
    settings_.taken_bytes = settings_.workspace = 0;
    settings_.taken_on = -1;
  }

  static Options gpu_options(const char* plugin = kPlugin) {
    Options options;
    options.n_threads = 2;
    options.gpu_plugin = plugin;
    return options;
  }
  static std::unique_ptr<Session> open(const Options& options = gpu_options()) {
    return Session::open_dummy(options, KT_SOURCE_DIR "/tests/data/golden_configs/qwen3_moe.json",
                               "Q8_0", 0);
  }
  // Of another length each time, so that its first step is launched and not replayed.
  engine::Request request() {
    engine::Request request;
    request.prompt.resize(static_cast<std::size_t>(3 + n_requests_++), 7);
    request.reuse_prefix = false;
    request.sampling.temperature = 0.0f;
    request.max_tokens = 8;
    request.ignore_stop_tokens = true;
    return request;
  }

  std::string problem_;
  std::unique_ptr<SharedObject> object_;  // the same that sessions open
  backend::FakeGpuSettings& settings_;
  int n_requests_ = 0;
};

TEST_F(GpuFaults, KernelsThatDifferFromTheirSlowTwinsAreRefused) {
  try {
    open(gpu_options(KT_FAKE_GPU_FOLDER "/libfake_gpu_whole_wrong.so"));
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    const std::string what = e.what();
    for (const char* part : {"cuda:0 (Stand-in GPU)", "the kernels for products (F32, 1 row)",
                             "differ from the slow ones by 1.0e-01", "--gpus 0"}) {
      EXPECT_NE(what.find(part), std::string::npos) << what;
    }
  }
  settings_.failing = "moe_reference";
  try {
    open();
    FAIL() << "no error";
  } catch (const Error& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find("the kernels for experts (Q8_0 and Q8_0, 1 row) cannot run"),
              std::string::npos)
        << what;
  }
}

TEST_F(GpuFaults, AKernelThatFailsEndsItsRequests) {
  const auto session = open();
  engine::Engine& engine = session->engine();
  const engine::Request same = request();
  const auto wanted = engine.generate(same).tokens;
  for (const char* call : {"gemm", "moe", "attention", "copy", "stream_synchronize"}) {
    settings_.failing = call;
    for (int i = 0; i < 2; ++i) {
      try {
        engine.generate(request());
        ADD_FAILURE() << call << ": no error";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kIo);
        EXPECT_NE(std::string(e.what()).find("the device failed"), std::string::npos) << e.what();
      }
    }
    settings_.failing = nullptr;
    for (int i = 0; i < 3; ++i) EXPECT_EQ(engine.generate(same).tokens, wanted) << call;
  }
}

TEST_F(GpuFaults, TemporariesThatRunOutEndTheStepsRequestsAlone) {
  Options options = gpu_options();
  options.gpu_memory = std::uint64_t{1} << 30;
  const auto session = open(options);
  engine::Engine& engine = session->engine();
  const engine::Request same = request();
  const auto wanted = engine.generate(same).tokens;
  settings_.workspace = std::size_t{2} << 30;
  const auto first = engine.submit(request()), second = engine.submit(request());
  while (engine.step()) {
  }
  settings_.workspace = 0;
  for (const auto id : {first, second}) {
    const auto result = engine.take_result(id);
    ASSERT_NE(result, nullptr);
    ASSERT_EQ(result->reason, engine::FinishReason::kError);
    EXPECT_NE(result->error.find("lower --chunk or --ctx"), std::string::npos) << result->error;
    try {
      std::rethrow_exception(result->exception);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kNoMemory);
    }
  }
  EXPECT_EQ(engine.cache_used(), 0.0);  // all pages came back
  EXPECT_EQ(engine.generate(same).tokens, wanted);
}

TEST_F(GpuFaults, ADeviceThatIsLostEndsTheRequestsOfItsWorkerWithErrors) {
  Options options = gpu_options();
  options.model = KT_SOURCE_DIR "/models/tiny-moe/tiny-moe-q4_k_m.gguf";
  std::vector<std::string> states;
  Worker worker(options, {.on_state = [&](const Session*, const std::exception_ptr& error) {
                  states.push_back(error ? "error" : "open");
                }});
  constexpr std::chrono::milliseconds kLong{60000};
  ASSERT_TRUE(worker.wait_open(kLong));
  const auto error = [&]() -> std::string {
    try {
      const auto ticket = worker.submit(request());
      while (ticket->wait(kLong) && !ticket->take().ended) {
      }
      ticket->result();
      return "none";
    } catch (const Error& e) {
      return e.what();
    }
  };
  EXPECT_EQ(error(), "none");
  settings_.failing = "gemm";  // but the device answers
  EXPECT_NE(error().find("the device failed"), std::string::npos);
  settings_.failing = nullptr;
  EXPECT_EQ(error(), "none");
  settings_.failing = "stream_synchronize";
  for (int i = 0; i < 2; ++i) EXPECT_NE(error().find("the device failed"), std::string::npos);
  worker.close();
  EXPECT_EQ(states, (std::vector<std::string>{"open", "error"}));
}

TEST_F(GpuFaults, SomeoneElsesMemoryIsNotCountedOn) {
  settings_.taken_bytes = settings_.total_bytes - (std::size_t{600} << 20);
  EXPECT_EQ(open()->load_report().gpus,  // too little is left to be worth it
            "cuda:0 (Stand-in GPU) is left out: 600.0 MiB are free, 1.25 GiB are wanted\n"
            "cuda:1 (Stand-in GPU) is left out: 600.0 MiB are free, 1.25 GiB are wanted");
}

TEST_F(GpuFaults, FullGpusThatAreAskedForAreAnError) {
  settings_.taken_bytes = settings_.total_bytes - (std::size_t{600} << 20);
  Options options = gpu_options();
  options.gpus = 2;
  try {
    find_gpus(options, {});
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("600.0 MiB are free, 1.25 GiB are wanted; cuda:1"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(GpuFaults, NumbersThatCannotBeAreRefused) {
  const auto code = [](int gpus, std::int64_t defer) {
    Options options = gpu_options();
    options.gpus = gpus;
    options.defer_experts = defer;
    try {
      open(options);
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(code(-5, 0), ErrorCode::kUsage);
  EXPECT_EQ(code(9, 0), ErrorCode::kUsage);
  EXPECT_EQ(code(1, -1), ErrorCode::kUsage);
}

TEST_F(GpuFaults, AGpuThatDoesNotAnswerIsAnErrorAndNoModelOnTheCpu) {
  for (const char* call : {"use_device", "device_memory", "all"}) {
    settings_.failing = call;
    try {
      open();
      ADD_FAILURE() << call << ": no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo);
      EXPECT_NE(std::string(e.what()).find("GPU 0 (Stand-in GPU)"), std::string::npos) << e.what();
    }
  }
  settings_.failure = backend::Status::kNoMemory;  // so full that it cannot be asked
  settings_.failing = "use_device";
  EXPECT_NE(open()->load_report().gpus.find("cuda:0 (Stand-in GPU) is left out: 0 B are free"),
            std::string::npos);
}

TEST_F(GpuFaults, MemoryOfAnotherModelIsNotLeftOutSilently) {
  settings_.taken_bytes = settings_.total_bytes - (std::size_t{600} << 20);
  settings_.taken_on = 1;
  const auto first = open();
  try {
    open();
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNoMemory);
    for (const char* part : {"other models here hold 3.8 GiB", "--gpu-memory"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST_F(GpuFaults, AFullGpuDoesNotHideTheOthers) {
  settings_.taken_bytes = settings_.total_bytes - (std::size_t{600} << 20);
  settings_.taken_on = 0;
  const auto session = open();
  const std::string& gpus = session->load_report().gpus;
  EXPECT_TRUE(gpus.starts_with(
      "cuda:0 (Stand-in GPU) is left out: 600.0 MiB are free, 1.25 GiB are wanted\ncuda:1: "))
      << gpus;
  EXPECT_EQ(session->engine().generate(request()).tokens.size(), 8u);
  int on_second = 0;
  operators::walk(session->model(), [&](operators::Module& m) {
    EXPECT_NE(m.site().device, "cuda:0") << m.path();
    on_second += m.site().device == "cuda:1" ? 1 : 0;
  });
  EXPECT_GT(on_second, 20);
}

}  // namespace
}  // namespace kt::session
