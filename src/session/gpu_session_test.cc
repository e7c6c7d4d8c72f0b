// A model on GPUs, which are stand-ins (backend/gpu/test_fixtures): steps that are replayed, memory
// that is too little, and kernels that fail in the middle.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "backend/gpu/test_fixtures/fake_gpu.h"
#include "base/shared_object.h"
#include "session/dummy_source.h"
#include "session/session.h"

namespace kt::session {
namespace {

constexpr const char* kConfig = KT_SOURCE_DIR "/tests/data/golden_configs/qwen3_moe.json";
constexpr const char* kLatentConfig = KT_SOURCE_DIR "/tests/data/golden_configs/deepseek_v3.json";
const char* const kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";

class GpuSession : public ::testing::Test {
 protected:
  GpuSession()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        settings_(*static_cast<backend::FakeGpuSettings*>(object_->symbol("fake_gpu_settings"))) {
    settings_.late = true;
  }
  ~GpuSession() override {
    settings_.failing = nullptr;
    settings_.late = false;
  }

  static std::unique_ptr<Session> open(std::uint64_t gpu_memory = 0, std::int64_t chunk = 128,
                                       const std::string& config = kConfig) {
    Options options;
    options.gpu_memory = gpu_memory;
    options.chunk_size = chunk;
    return open(options, 0, config);
  }
  static std::unique_ptr<Session> open(Options options, std::int64_t layers = 0,
                                       const std::string& config = kConfig,
                                       const std::string& type = "Q8_0") {
    options.n_threads = 2;
    options.gpu_plugin = kPlugin;
    return Session::open_dummy(options, config, type, layers);
  }
  // And everything else on the GPU.
  static void put_experts_on_cpu(Options& options) {
    options.rules = ::testing::TempDir() + "/experts_on_cpu.yaml";
    options.device = "cuda:0";
    std::ofstream(options.rules) << R"(
- match: {name: '^model\.layers\..*\.experts$'}
  replace:
    class: ktransformers.operators.experts.KTransformersExperts
    kwargs: {generate_device: cpu, generate_op: KExpertsCPU}
  recursive: false
- match: {name: '^model\.embed_tokens$'}
  replace: {class: default, kwargs: {generate_device: cpu, prefill_device: cpu}}
)";
  }
  // With all on the planned GPUs, or the experts on the CPU.
  static std::unique_ptr<Session> open_with_graphs(const char* graphs, bool experts_on_cpu,
                                                   std::int64_t defer = 0,
                                                   std::int64_t layers = 0) {
    Options options;
    options.gpu_graphs = graphs;
    options.defer_experts = defer;
    if (experts_on_cpu) put_experts_on_cpu(options);
    return open(options, layers);
  }
  // Several at once, of different lengths, which end one after the other.
  static std::vector<std::vector<std::int32_t>> run_many(engine::Engine& engine) {
    std::vector<engine::Engine::RequestId> ids;
    for (int i = 0; i < 4; ++i) {
      engine::Request many = request();
      many.prompt.resize(static_cast<std::size_t>(3 + 20 * i), 1 + i);
      many.max_tokens = 6 + 5 * i;
      many.reuse_prefix = false;
      ids.push_back(engine.submit(many));
    }
    while (engine.step()) {
    }
    std::vector<std::vector<std::int32_t>> tokens;
    for (const auto id : ids) {
      const auto result = engine.take_result(id);
      EXPECT_EQ(result->error, "");
      tokens.push_back(result->tokens);
    }
    return tokens;
  }
  static std::unique_ptr<Session> open_streamed(const std::string& mode,
                                                const std::string& type = "Q8_0", int nodes = 0,
                                                const std::string& config = kConfig) {
    Options options;
    options.chunk_size = 48;
    options.emulate_nodes = nodes;
    options.stream_experts = mode;
    put_experts_on_cpu(options);
    return open(options, 0, config, type);
  }
  static std::string config_with(std::initializer_list<std::pair<const char*, int>> values) {
    std::ifstream in(kConfig);
    std::string text(std::istreambuf_iterator<char>(in), {});
    for (const auto& [name, value] : values) {
      const std::size_t at = text.find(fmt::format("\"{}\": ", name)) + std::strlen(name) + 4;
      text.replace(at, text.find(',', at) - at, std::to_string(value));
    }
    const std::string path = testing::TempDir() + "/kt_gpu_session_config.json";
    std::ofstream(path) << text;
    return path;
  }
  // The same model with 128 experts of 0.8 MiB, a layer of which does not fit a slot.
  static std::string large_config() {
    return config_with({{"num_experts", 128}, {"moe_intermediate_size", 1024}});
  }
  // Of the first GPU, as the report says.
  static double mib_in_use(const Session& session) {
    const std::string& text = session.load_report().gpus;
    const std::size_t end = text.find(" MiB in use");
    return end == std::string::npos ? 0.0 : std::stod(text.substr(text.rfind(' ', end - 1)));
  }
  // Of a prompt of several steps, the last of few rows.
  static std::vector<float> prompt_logits(Session& session) {
    engine::Request prompt = request();
    for (std::int32_t i = 0; i < 110; ++i) prompt.prompt.push_back(i * 7 % 200);
    prompt.max_tokens = 0;
    std::vector<float> all;
    prompt.on_prompt_logits = [&](std::int64_t, std::span<const float> logits) {
      all.insert(all.end(), logits.begin(), logits.end());
    };
    session.engine().generate(prompt);
    return all;
  }
  static engine::Request request() {
    engine::Request request;
    request.prompt = {1, 2, 3, 4, 5};
    request.sampling.temperature = 0.0f;
    request.max_tokens = 8;
    request.ignore_stop_tokens = true;
    return request;
  }

  void expect_errors(const std::string& config, std::initializer_list<const char*> calls) {
    auto session = open(0, 128, config);
    const auto wanted = session->engine().generate(request()).tokens;
    for (const char* call : calls) {
      settings_.failing = call;
      engine::Request other = request();
      other.prompt = {9, 8, 7, 6, 5, 4, 3};  // a step that is launched
      try {
        session->engine().generate(other);
        ADD_FAILURE() << call << ": no error";
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("the device failed"), std::string::npos) << e.what();
      }
      settings_.failing = nullptr;
      session = nullptr;
      session = open(0, 128, config);
      EXPECT_EQ(session->engine().generate(request()).tokens, wanted) << call;
    }
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

// Scores of heads that no kernel is for: [128 rows, 8 heads, keys].
TEST_F(GpuSession, MemoryForTheLongestContextIsThereBeforeTheFirstRequest) {
  const std::string config = config_with({{"max_position_embeddings", 65536}});
  const auto in_use = [&](std::int64_t context) {
    Options options;
    options.context = context;
    options.chunk_size = 128;
    return mib_in_use(*open(options, 0, config));
  };
  const double least = 128.0 * 8 * 65536 * 4 / (1 << 20);
  const double short_context = in_use(1024), long_context = in_use(65536);
  EXPECT_GT(short_context, 0.0);
  EXPECT_GT(long_context, least);
  EXPECT_LT(short_context, least);
}

// The head's [64, 1500] are more than any other product's [128, 512].
TEST_F(GpuSession, LogitsOfAllRowsOfAPromptAreMadeInPieces) {
  constexpr std::size_t kVocabulary = 1500, kRows = 130;
  const std::string config =
      config_with({{"vocab_size", kVocabulary}, {"max_position_embeddings", 512}});
  std::vector<std::vector<float>> all;
  for (const std::int64_t chunk : {128, 60}) {
    const auto session = open(0, chunk, config);
    settings_.most_outputs = 0;
    engine::Request prompt = request();
    prompt.prompt.resize(kRows);
    for (std::size_t i = 0; i < kRows; ++i)
      prompt.prompt[i] = static_cast<std::int32_t>(i * 7 % 200);
    prompt.max_tokens = 2;
    std::vector<float>& logits = all.emplace_back();
    prompt.on_prompt_logits = [&](std::int64_t row, std::span<const float> of_row) {
      EXPECT_EQ(static_cast<std::size_t>(row) * kVocabulary, logits.size());
      logits.insert(logits.end(), of_row.begin(), of_row.end());
    };
    EXPECT_EQ(session->engine().generate(prompt).tokens.size(), 2u);
    EXPECT_LE(settings_.most_outputs, 64 * kVocabulary);
    EXPECT_EQ(logits.size(), kRows * kVocabulary);
  }
  EXPECT_EQ(all[0], all[1]);
}

TEST_F(GpuSession, ReplayedStepsEqualLaunchedOnes) {
  for (const bool experts_on_cpu : {false, true}) {
    auto session = open_with_graphs("off", experts_on_cpu);
    const auto wanted = run_many(session->engine());
    const std::uint64_t n_rows = session->engine().expert_use().n_rows;
    session = nullptr;  // and its memory
    session = open_with_graphs("on", experts_on_cpu);
    EXPECT_EQ(run_many(session->engine()), wanted);
    EXPECT_EQ(run_many(session->engine()), wanted);  // with all shapes known
    EXPECT_EQ(session->engine().expert_use().n_rows, 2 * n_rows);
  }
}

TEST_F(GpuSession, ExpertsThatAreDeferredComeALayerLater) {
  std::vector<std::vector<std::int32_t>> tokens;
  for (const std::int64_t layers : {1, 0}) {
    for (const std::int64_t defer : {0, 3}) {
      for (const char* graphs : {"off", "on"}) {
        const auto session = open_with_graphs(graphs, true, defer, layers);
        tokens.push_back(run_many(session->engine()).front());
      }
    }
  }
  EXPECT_EQ(tokens[2], tokens[0]);  // behind the only layer nothing is missing
  EXPECT_NE(tokens[6], tokens[4]);
  for (std::size_t i = 0; i < tokens.size(); i += 2) EXPECT_EQ(tokens[i + 1], tokens[i]);
}

TEST_F(GpuSession, AGraphThatFailsIsAnErrorAndTheNextSessionWorks) {
  for (const bool experts_on_cpu : {false, true}) {
    for (const char* call : {"graph", "graph_launch"}) {
      auto session = open_with_graphs("on", experts_on_cpu);
      const auto wanted = session->engine().generate(request()).tokens;
      settings_.failing = call;
      try {
        session->engine().generate(request());
        ADD_FAILURE() << call << ": no error";
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("the device failed"), std::string::npos) << e.what();
      }
      settings_.failing = nullptr;
      session = nullptr;
      session = open_with_graphs("on", experts_on_cpu);
      EXPECT_EQ(session->engine().generate(request()).tokens, wanted) << call;
    }
  }
}

TEST_F(GpuSession, AKernelThatFailsIsAnErrorAndTheNextSessionWorks) {
  expect_errors(kConfig, {"gemm", "moe", "attention", "copy", "stream_synchronize"});
  expect_errors(kLatentConfig, {"store_latents", "head_products", "attention"});
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

// In one step: a prompt that latent attention expands, between others that it does not.
TEST_F(GpuSession, PromptsBesideOthers) {
  Options options;
  options.cache_tokens = 512;
  for (const char* config : {kLatentConfig, kConfig}) {
    std::vector<engine::Request> requests;
    std::vector<std::vector<std::int32_t>> alone;
    for (const std::size_t n : {9, 5, 70, 40}) {
      engine::Request r = request();
      r.prompt.resize(n);
      for (std::size_t i = 0; i < n; ++i)
        r.prompt[i] = static_cast<std::int32_t>((i * 7 + n) % 200);
      requests.push_back(r);
      alone.push_back(open(options, 0, config)->engine().generate(r).tokens);
    }
    const auto session = open(options, 0, config);
    engine::Engine& engine = session->engine();
    std::vector<engine::Engine::RequestId> ids;
    for (const engine::Request& r : requests) {
      ids.push_back(engine.submit(r));
      if (ids.size() > 2) continue;
      engine.step();  // it decodes when the others come
      engine.step();
    }
    while (engine.step()) {
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto together = engine.take_result(ids[i]);
      ASSERT_NE(together, nullptr);
      EXPECT_EQ(together->tokens, alone[i]) << config << i;
    }
  }
}

// Rows of logits from sums of bf16 products on one side, of 15-bit ones on the other; among many
// experts a near tie of a router may turn in up to n_ties rows.
void expect_close(const std::vector<float>& a, const std::vector<float>& b,
                  std::size_t n_ties = 0) {
  constexpr std::size_t kVocabulary = 263;  // of the golden configuration
  ASSERT_EQ(a.size(), b.size());
  ASSERT_EQ(a.size() % kVocabulary, 0u);
  struct Row {
    double difference = 0.0, square = 0.0;
  };
  std::vector<Row> rows(a.size() / kVocabulary);
  for (std::size_t i = 0; i < a.size(); ++i) {
    Row& row = rows[i / kVocabulary];
    row.square += double{a[i]} * a[i];
    row.difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  }
  std::sort(rows.begin(), rows.end(),
            [](const Row& x, const Row& y) { return x.difference < y.difference; });
  ASSERT_GT(rows.size(), n_ties);
  rows.resize(rows.size() - n_ties);
  Row sum;
  for (const Row& row : rows) {
    sum.difference += row.difference;
    sum.square += row.square;
  }
  EXPECT_LT(sum.difference, 1e-3 * sum.square);
  EXPECT_GT(sum.difference, 0.0);
}

TEST_F(GpuSession, StreamedExpertsAgreeWithThoseOnTheCpu) {
  for (const char* type : {"BF16", "Q8_0", "Q4_K_M", "MXFP4_MOE"}) {
    auto session = open_streamed("off", type);
    EXPECT_EQ(session->load_report().gpus.find("pinned"), std::string::npos);
    const std::vector<float> wanted = prompt_logits(*session);
    session = nullptr;  // it holds all memory of the GPU
    session = open_streamed("on", type);
    EXPECT_NE(session->load_report().gpus.find("of experts pinned in"), std::string::npos);
    const std::vector<float> streamed = prompt_logits(*session);
    expect_close(streamed, wanted);
    EXPECT_EQ(prompt_logits(*session), streamed) << type;
    session = nullptr;
    EXPECT_EQ(prompt_logits(*open_streamed("auto", type)).size(), wanted.size());
  }
}

TEST_F(GpuSession, ExpertsAreStreamedFromMemoryThatCannotBePinnedAndFromSeveralNodes) {
  const std::vector<float> wanted = prompt_logits(*open_streamed("on"));
  EXPECT_EQ(prompt_logits(*open_streamed("on", "Q8_0", 2)), wanted);
  settings_.failing = "host_register";
  const auto session = open_streamed("on");
  settings_.failing = nullptr;
  EXPECT_NE(session->load_report().gpus.find("cannot be pinned"), std::string::npos);
  EXPECT_EQ(prompt_logits(*session), wanted);
}

TEST_F(GpuSession, LayersThatDoNotFitASlotAreStreamedInChunks) {
  const std::string config = large_config();
  const std::vector<float> wanted = prompt_logits(*open_streamed("off", "Q8_0", 0, config));
  auto session = open_streamed("on", "Q8_0", 0, config);
  const std::vector<float> streamed = prompt_logits(*session);
  expect_close(streamed, wanted, 4);
  EXPECT_EQ(prompt_logits(*session), streamed);  // begins with what was sent ahead
  session = nullptr;
  EXPECT_EQ(prompt_logits(*open_streamed("on", "Q8_0", 2, config)), streamed);
  settings_.failing = "host_register";
  session = open_streamed("on", "Q8_0", 0, config);
  settings_.failing = nullptr;
  EXPECT_EQ(prompt_logits(*session), streamed);
  session = nullptr;
  EXPECT_EQ(prompt_logits(*open_streamed("auto", "Q8_0", 0, config)).size(), wanted.size());
}

TEST_F(GpuSession, StreamsThatFailAreErrorsAndGiveEverythingBack) {
  const std::vector<float> wanted = prompt_logits(*open_streamed("on"));
  const std::size_t held = settings_.n_held;
  for (const char* call : {"copy", "pack_n16", "scatter_add", "gather_rows", "moe", "event_record",
                           "stream_wait_event"}) {
    const auto session = open_streamed("on");
    settings_.failing = call;
    EXPECT_THROW(prompt_logits(*session), Error) << call;
    settings_.failing = nullptr;
    EXPECT_EQ(prompt_logits(*session), wanted) << call;
  }
  EXPECT_EQ(settings_.n_held, held);
}

TEST_F(GpuSession, ExpertsThatCannotBeStreamedAreAnErrorWhereItIsAskedFor) {
  EXPECT_THROW(open_streamed("on", "Q2_K"), Error);
  EXPECT_FALSE(prompt_logits(*open_streamed("auto", "Q2_K")).empty());
  EXPECT_THROW(open_streamed("perhaps"), Error);
}

TEST(GpuPlan, StreamedExpertsGetLargeStepsAndMemory) {
  const auto source = make_dummy_source(
      read_dummy_config(KT_SOURCE_DIR "/tests/data/configs/Qwen3-30B-A3B.json", 0),
      file_type("Q4_K_M"), {});
  const auto planned = [&](std::uint64_t gib, const std::string& mode, std::int64_t chunk) {
    Place here;
    here.machine.ram = std::uint64_t{64} << 30;
    here.machine.gpus = {{gib << 30, 0.0, 0.0}};
    here.packing = {detect_caps(), backend::ActPolicy::kQ16, 16, true};
    here.devices = {1, false};
    RunOptions options;
    options.stream_experts = mode;
    options.chunk_size = chunk;
    return place(*source, here, options, {});
  };
  const placement::Plan off = planned(8, "off", 0), streamed = planned(8, "auto", 0);
  EXPECT_EQ(off.chunk_size, 512);
  EXPECT_EQ(streamed.chunk_size, 2048);
  EXPECT_GT(streamed.devices[1].workspace, off.devices[1].workspace + (std::uint64_t{384} << 20));
  EXPECT_LE(streamed.devices[1].used(), streamed.devices[1].capacity);
  EXPECT_EQ(planned(8, "auto", 256).chunk_size, 256);
  const placement::Plan whole = planned(80, "auto", 0);  // nothing is streamed
  EXPECT_EQ(whole.chunk_size, 512);
  EXPECT_EQ(whole.devices[1].workspace, planned(80, "off", 0).devices[1].workspace);
}

}  // namespace
}  // namespace kt::session
