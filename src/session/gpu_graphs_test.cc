// Recorded steps on a stand-in GPU: what gives way for pinned memory.
#include <gtest/gtest.h>

#include "backend/gpu/test_fixtures/fake_gpu.h"
#include "base/shared_object.h"
#include "base/thread_pool.h"
#include "engine/step_graphs.h"
#include "operators/step.h"

namespace kt::session {
namespace {

using operators::StepShape;

const char* const kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";

class GpuGraphs : public ::testing::Test {
 protected:
  GpuGraphs()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        settings_(*static_cast<backend::FakeGpuSettings*>(object_->symbol("fake_gpu_settings"))),
        gpu_(backend::GpuLibrary::open(kPlugin), 0, std::size_t{8} << 20) {
    steps_.push_back(std::make_unique<operators::GpuStep>(gpu_, pool_));
  }

  // A step of so many rows that sends a MiB.
  StepShape launch(std::int64_t n_rows) {
    const std::vector<std::int32_t> tokens(static_cast<std::size_t>(n_rows));
    const operators::Batch batch{tokens, tokens, {}, {}};
    const StepShape shape = operators::shape_of(batch);
    const std::vector<float> rows(std::size_t{1} << 18);
    operators::GpuStep& step = *steps_.front();
    step.begin(batch, shape);
    const auto n = static_cast<std::int64_t>(rows.size());
    step.upload({rows.data(), 1, n, n}, step.allocate(rows.size() * sizeof(float)),
                kernels::cuda::Type::kF32);
    step.end();
    EXPECT_EQ(step.error(), "");
    return shape;
  }

  std::string problem_;
  std::unique_ptr<SharedObject> object_;  // the same that the GPU is of
  backend::FakeGpuSettings& settings_;
  backend::Gpu gpu_;
  ThreadPool pool_{1, {}};
  std::vector<std::unique_ptr<operators::GpuStep>> steps_;
};

TEST_F(GpuGraphs, ProgramsGiveWayForPinnedMemory) {
  engine::StepGraphs graphs(std::size_t{5} << 19);  // of two programs
  std::vector<StepShape> shapes;
  for (const std::int64_t n : {1, 2, 3}) {
    shapes.push_back(launch(n));
    graphs.launched(shapes.back(), steps_);
  }
  const std::size_t held = settings_.n_held;
  EXPECT_NE(graphs.find(shapes[0], steps_), nullptr);
  EXPECT_NE(graphs.find(shapes[1], steps_), nullptr);
  EXPECT_EQ(settings_.n_held, held + 2);
  EXPECT_NE(graphs.find(shapes[0], steps_), nullptr);
  EXPECT_NE(graphs.find(shapes[2], steps_), nullptr);
  EXPECT_EQ(settings_.n_held, held + 2) << "that of two rows, used least of late, gave way";
  EXPECT_NE(graphs.find(shapes[1], steps_), nullptr) << "it may come again";
  EXPECT_EQ(settings_.n_held, held + 2);
}

}  // namespace
}  // namespace kt::session
