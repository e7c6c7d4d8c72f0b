#include "serve/models.h"

#include <gtest/gtest.h>

#include <future>
#include <optional>

#include "base/error.h"
#include "base/shared_object.h"

namespace kt::serve {
namespace {

TEST(ModelNames, ComparesAsClientsMean) {
  EXPECT_TRUE(same_model("Qwen3:latest", "qwen3"));
  EXPECT_TRUE(same_model("library/qwen3", "Qwen3"));
  EXPECT_TRUE(same_model("registry.ollama.ai/library/qwen3:30b", "qwen3:30b"));
  EXPECT_FALSE(same_model("qwen3:8b", "qwen3:30b"));
  EXPECT_FALSE(same_model("qwen3:8b", "qwen3"));
}

ModelOptions tiny_moe(const std::string& id) {
  ModelOptions options;
  options.id = id;
  options.session.model = std::string(KT_SOURCE_DIR) + "/models/tiny-moe/tiny-moe-q4_k_m.gguf";
  options.session.context = 64;
  options.session.n_threads = 1;
  return options;
}

NamedModel wait_for_model(Models& models, const std::string& name) {
  while (true) {
    std::shared_ptr<ServedModel> model;  // kept while it is being opened
    try {
      return models.get(name);
    } catch (const Loading& loading) {
      model = loading.model();
    }
    std::promise<void> opened;
    model->when_opened([&] { opened.set_value(); });
    opened.get_future().wait();
  }
}

TEST(Models, ALeaseKeepsAModelOpenAndNothingElseDoes) {
  Models models({tiny_moe("first"), tiny_moe("second")}, Models::Duration(0));
  EXPECT_EQ(models.peek("second"), nullptr);
  std::optional<NamedModel> lease = wait_for_model(models, "second");
  const std::shared_ptr<ServedModel> seen = models.peek("second");
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));  // idle ones go each second
  EXPECT_EQ(models.peek("second"), seen);
  EXPECT_FALSE(lease->tokenize("text", false, false).empty());
  lease.reset();
  for (int i = 0; i < 1000 && models.peek("second") != nullptr; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(models.peek("second"), nullptr);
  EXPECT_EQ(models.facts("second")->context, 64);  // known without opening it
  EXPECT_EQ(models.peek("second"), nullptr);
}

TEST(Models, ANameHasItsOwnDefaults) {
  Models models({tiny_moe("first")}, Models::kForever);
  ASSERT_TRUE(models.peek({})->wait_open(std::chrono::minutes(1)));
  const auto defaults_of = [&](const std::string& name) {
    return wait_for_model(models, name).facts().defaults;
  };
  const auto saying = [](const char* system, std::int64_t max_tokens) {
    auto defaults = std::make_shared<ModelDefaults>();
    defaults->system = system;
    defaults->max_tokens = max_tokens;
    return defaults;
  };
  models.create("first", "brief", saying("Be brief.", 5));
  models.copy("brief", "copy");
  models.create("copy", "another", nullptr);
  for (const char* name : {"Brief:latest", "copy", "another"}) {
    EXPECT_EQ(defaults_of(name).system, "Be brief.") << name;
    EXPECT_EQ(models.facts(name)->defaults.max_tokens, 5) << name;
  }
  EXPECT_TRUE(defaults_of("first").system.empty());
  models.create("first", "brief", saying("Be long.", 500));
  EXPECT_EQ(defaults_of("brief").system, "Be long.");
  EXPECT_EQ(defaults_of("copy").system, "Be brief.");
  models.remove("brief");
  EXPECT_THROW(models.get("brief"), Refusal);
  EXPECT_THROW(models.create("first", "First", nullptr), Refusal);  // a model, and no copy
  EXPECT_EQ(models.list().size(), 3u);
}

// What is read out of a template by the vocabulary is there for the model that is open.
TEST(Models, ANameHasItsOwnTemplate) {
  Models models({tiny_moe("first")}, Models::kForever);
  ASSERT_TRUE(models.peek({})->wait_open(std::chrono::minutes(1)));
  const ModelFacts own = wait_for_model(models, "first").facts();
  auto defaults = std::make_shared<ModelDefaults>(own.defaults);
  defaults->chat_template = std::make_shared<const text::ChatTemplate>(text::ChatTemplate::compile(
      "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}<think>"));
  models.create("first", "plain", defaults);
  const NamedModel plain = wait_for_model(models, "plain");
  Ask ask;
  ask.messages = {{{"role", "user"}, {"content", "hi"}}};
  EXPECT_EQ(plain.render(ask).prompt, "[user] hi\n<think>");
  EXPECT_TRUE(plain.facts().thinks);
  EXPECT_NE(wait_for_model(models, "first").render(ask).prompt, plain.render(ask).prompt);
  EXPECT_EQ(models.facts("plain")->chat_template, plain.facts().chat_template);
  EXPECT_EQ(&wait_for_model(models, "plain").facts(), &plain.facts());  // made once
}

TEST(Models, WhoWaitedForAModelThatCannotBeOpenedIsToldAndTheNextTriesAgain) {
  ModelOptions bad = tiny_moe("bad");
  bad.session.model = "/nowhere/model.gguf";
  Models models({tiny_moe("first"), bad}, Models::Duration(1000));
  int n_told = 0;
  for (int i = 0; i < 2; ++i) {
    std::shared_ptr<ServedModel> model;
    try {
      models.get("bad");
    } catch (const Loading& loading) {
      model = loading.model();
    } catch (const Error&) {
      ++n_told;  // it failed at once
      continue;
    }
    ASSERT_NE(model, nullptr);
    EXPECT_THROW(model->wait_open(std::chrono::minutes(1)), Error);
    EXPECT_EQ(model->state(), ServedModel::State::kFailed);
    EXPECT_THROW(model->facts(), Error);
    ++n_told;
  }
  EXPECT_EQ(n_told, 2);
}

std::string outcome(session::Worker& worker) {
  engine::Request request;
  request.prompt = {1, 2, 3, 4};
  request.max_tokens = 2;
  try {
    const auto ticket = worker.submit(request);
    while (ticket->wait(std::chrono::minutes(1)) && !ticket->take().ended) {
    }
    ticket->result();
    return "a reply";
  } catch (const Error& e) {
    return e.what();
  }
}

// Models on stand-ins of GPUs.
class ModelsOnGpus : public ::testing::Test {
 protected:
  ModelsOnGpus()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        lose_(reinterpret_cast<void (*)(bool)>(object_->symbol("fake_gpu_lose"))) {}
  ~ModelsOnGpus() override { lose_(false); }

  // Each opening's line is kept.
  ModelOptions on_gpu(const std::string& id) {
    ModelOptions options = tiny_moe(id);
    options.session.gpu_plugin = kPlugin;
    options.on_open = [this](const std::string& model, const session::LoadReport& report) {
      const std::lock_guard lock(mutex_);
      openings_.push_back(model + ": " + report.gpus.substr(0, report.gpus.find(',')));
    };
    return options;
  }
  std::vector<std::string> openings() {
    const std::lock_guard lock(mutex_);
    return openings_;
  }

  static constexpr const char* kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";
  std::string problem_;
  std::unique_ptr<SharedObject> object_;
  void (*lose_)(bool);
  std::mutex mutex_;
  std::vector<std::string> openings_;
};

TEST_F(ModelsOnGpus, AGpuThatIsLostEndsItsModelAndNoOther) {
  ModelOptions other = tiny_moe("other");
  other.session.gpus = 0;
  Models models({on_gpu("on a GPU"), other}, Models::kForever);
  const auto first = models.peek({});
  ASSERT_TRUE(first->wait_open(std::chrono::minutes(1)));
  const NamedModel keep_other = wait_for_model(models, "other");
  EXPECT_EQ(outcome(first->worker()), "a reply");
  lose_(true);
  EXPECT_NE(outcome(first->worker()).find("the device failed"), std::string::npos);
  for (int i = 0; i < 1000 && first->state() != ServedModel::State::kBroken; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_NE(outcome(first->worker()).find("the device failed"), std::string::npos);
  EXPECT_THROW(first->facts(), Error);  // as /health does
  EXPECT_EQ(outcome(models.peek("other")->worker()), "a reply");
  // The next request opens it anew: while the GPU fails that is an error, and no model on the CPU.
  for (int i = 0; i < 2; ++i) {
    try {
      models.get("on a GPU");
      ADD_FAILURE() << "no error";
    } catch (const Loading& loading) {
      try {
        loading.model()->wait_open(std::chrono::minutes(1));
        ADD_FAILURE() << "no error";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kIo);
        EXPECT_NE(std::string(e.what()).find("GPU 0 (Stand-in GPU)"), std::string::npos)
            << e.what();
      }
    }
  }
  lose_(false);
  const NamedModel again = wait_for_model(models, "on a GPU");
  EXPECT_EQ(outcome(models.peek({})->worker()), "a reply");
  EXPECT_EQ(openings(), std::vector<std::string>(2, "on a GPU: cuda:0: Stand-in GPU"));
}

// Each takes all memory of both.
TEST_F(ModelsOnGpus, AModelThatIsIdleGivesItsGpusToTheNext) {
  Models models({on_gpu("a"), on_gpu("b")}, Models::kForever);
  ASSERT_TRUE(models.peek({})->wait_open(std::chrono::minutes(1)));
  const NamedModel b = wait_for_model(models, "b");
  EXPECT_EQ(models.peek("a"), nullptr);
  EXPECT_EQ(openings(),
            (std::vector<std::string>{"a: cuda:0: Stand-in GPU", "b: cuda:0: Stand-in GPU"}));
  try {
    wait_for_model(models, "a");  // b is in use
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNoMemory);
    EXPECT_NE(std::string(e.what()).find("other models here hold 3.8 GiB"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace kt::serve
