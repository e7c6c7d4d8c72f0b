// What operators say they will keep (Module::kept) is what they hold once loaded: every operator of
// the catalogue that has weights, on small models of random weights.
#include <gtest/gtest.h>

#include <set>

#include "io/hf_config.h"
#include "models/model.h"
#include "session/dummy_source.h"

namespace kt::session {
namespace {

using backend::ActPolicy;

io::ModelConfig golden(const std::string& name) {
  return io::read_hf_config(std::string(KT_SOURCE_DIR) + "/tests/data/golden_configs/" + name +
                            ".json");
}

std::uint64_t bytes_of(const operators::Kept& kept, const backend::Cpu& cpu, bool packed) {
  std::uint64_t bytes = kept.vector_bytes;
  for (const operators::KeptMatrix& m : kept.matrices) {
    bytes += static_cast<std::uint64_t>(m.count) *
             (packed ? backend::packed_matrix_bytes(cpu.caps, cpu.act, m.format, m.n, m.k)
                     : formats::row_bytes(m.format, m.k) * static_cast<std::uint64_t>(m.n));
  }
  return bytes;
}

// With this operator wherever it can be; whether it was used.
bool check(const io::WeightSource& source, ActPolicy act, const operators::OperatorRow& row,
           const operators::Kwargs& kwargs) {
  operators::Placement placement;
  placement.devices = {1, true};
  const auto plain = models::build_model(source.config(), placement);
  operators::walk(*plain, [&](operators::Module& module) {
    if (module.kind() == row.kind)
      placement.entries[module.path()] = {row.name, row.devices.front(), "", "", "", "", kwargs};
  });
  const auto model = models::build_model(source.config(), placement);
  backend::Cpu cpu(1, {}, detect_caps(), act);
  operators::Loader loader(source, cpu, {});
  try {
    models::load_model(*model, loader);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported) << e.what();  // asks for other weights
    return false;
  }
  bool used = false;
  std::uint64_t read = 0, file = 0;
  operators::walk(*model, [&](operators::Module& module) {
    const operators::Kept kept = module.kept(source, act);
    EXPECT_EQ(bytes_of(kept, cpu, module.kind() != "Embedding"), module.weight_bytes())
        << module.path() << " " << module.op();
    read += kept.file_bytes;
    used = used || module.op() == row.name;
  });
  for (const io::TensorInfo& t : source.tensors()) {
    file += formats::row_bytes(t.format, t.shape.n_cols()) *
            static_cast<std::uint64_t>(t.shape.n_rows());
  }
  EXPECT_EQ(read, file);
  return used;
}

TEST(Kept, IsWhatLoadedModulesHold) {
  const operators::Catalogue catalogue;
  std::set<std::string> used, all;
  for (const operators::OperatorRow& row : catalogue.rows()) {
    const bool owns = row.kind == "Linear" || row.kind == "Experts" || row.kind == "Attention";
    if (!owns || row.is_wrapper()) continue;
    all.insert(row.name);
    for (const char* name : {"deepseek_v3", "qwen2_moe", "qwen3_moe", "llama"}) {
      const io::ModelConfig config = golden(name);
      if (!row.fits(config.architecture)) continue;
      for (const char* type : {"Q8_0", "F16"}) {
        SCOPED_TRACE(row.name + " " + name + " " + type);
        const auto source = make_dummy_source(config, file_type(type), {});
        std::vector<operators::Kwargs> variants = {{}};
        if (row.takes("num_bits")) variants.push_back({{"num_bits", std::int64_t{8}}});
        if (row.takes("absorb_for_prefill")) variants.push_back({{"absorb_for_prefill", false}});
        if (row.takes("backend")) {
          for (const char* backend : {"AMXInt8", "AMXInt4", "AMXBF16"})
            variants.push_back({{"backend", std::string(backend)}});
        }
        for (const operators::Kwargs& kwargs : variants) {
          const ActPolicy act = kwargs.empty() ? ActPolicy::kQ16 : ActPolicy::kF32;
          if (check(*source, act, row, kwargs)) used.insert(row.name);
        }
      }
    }
  }
  all.erase("KLinearFP8");  // no file type has its blocks
  EXPECT_EQ(used, all);
}

TEST(Planned, RowsNameOperatorsThatRunOnGpus) {
  const operators::Catalogue catalogue;
  for (const operators::PlannedRow& planned : operators::planned_rows()) {
    const operators::OperatorRow* row = catalogue.find(planned.name);
    ASSERT_NE(row, nullptr) << planned.name;
    EXPECT_TRUE(row->runs_on("cuda:0")) << planned.name;
    for (const auto& [name, value] : planned.kwargs) EXPECT_TRUE(row->takes(name)) << name;
  }
}

}  // namespace
}  // namespace kt::session
