// Reads a module's weights: finds tensors, checks shapes, decodes, changes their format when an
// operator asks for it, packs them for this CPU with rows in parallel, and reports progress.
//
//   file rows → [Recode: decode, encode in another format] → PackedMatrix
//
// Thread rule: one thread loads; packing is parallel inside.
#pragma once
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "backend/gpu/gpu.h"
#include "io/weight_source.h"
#include "tensor/tensor.h"

namespace kt::operators {

class ExpertCache;
class ExpertStream;

/// A tensor that a module reads from the checkpoint.
struct WeightSpec {
  std::string name;     // canonical name
  tensor::Shape shape;  // as in the checkpoint
};

/// What happens to weights between file and packed matrix.
struct Recode {
  enum class Kind {
    kStored,  // nothing
    kDense,   // quantised weights become F32; dense ones stay
    kBf16,    // rounded to BF16
    kGroup,   // symmetric integers of `bits` bits; `group` weights of a row share a scale
  };
  Kind kind = Kind::kStored;
  std::int64_t bits = 4;    // kGroup: 4 or 8
  std::int64_t group = 64;  // kGroup: a multiple of 32, or -1 for a whole row
  /// Format after recoding.
  tensor::Format target(tensor::Format stored) const;
  backend::WeightScales scales() const {
    return kind == Kind::kGroup && group < 0 ? backend::WeightScales::kOfRows
                                             : backend::WeightScales::kOfBlocks;
  }
  /// Whether weights of that format come out otherwise.
  bool changes(tensor::Format stored) const;
  /// For people: "4 bits, groups of 64"; empty for kStored.
  std::string describe() const;
};

/// x [n] → n values of `bits` bits in the blocks of Recode::target, with equal scales inside a
/// group (the last may be shorter). n and the group are multiples of 32. Source: symmetric
/// round-to-nearest with scale max|x| / (2^(bits-1) - 1/2), as 4-bit Marlin weights are made; 8
/// bits use max|x| / 127.
void encode_group(const float* x, std::int64_t n, const Recode& recode, std::byte* out);

/// Brings rows of tensors, recoded; its buffers are kept between calls. One thread's.
class RowReader {
 public:
  RowReader(const io::WeightSource& source, const Recode& recode)
      : source_(&source), recode_(recode) {}
  /// Rows [row, row + n_rows), valid until the next call. Throws as WeightSource::read_rows.
  const std::byte* rows(const io::TensorInfo& info, std::int64_t row, std::int64_t n_rows);

 private:
  const std::byte* recoded(const io::TensorInfo& info, const std::byte* rows, std::int64_t n_rows);
  const io::WeightSource* source_;
  Recode recode_;
  std::vector<float> decoded_;
  std::vector<std::byte> read_, encoded_;
};

/// The tensor with this shape; throws kMismatch naming it when it is missing or shaped otherwise.
const io::TensorInfo& require_tensor(const io::WeightSource& source, const WeightSpec& spec);
/// Throws kUnsupported when rows of this tensor cannot be recoded.
void check_recode(const io::WeightSource& source, const io::TensorInfo& info, const Recode& recode);

/// What loading needs, and what it found.
class Loader {
 public:
  using Progress = std::function<void(std::uint64_t bytes_done)>;
  using Streams = std::span<const std::unique_ptr<ExpertStream>>;
  using Caches = std::span<const std::unique_ptr<ExpertCache>>;
  Loader(const io::WeightSource& source, backend::Cpu& cpu, Progress progress,
         std::span<const std::unique_ptr<backend::Gpu>> gpus = {}, Streams streams = {},
         Caches caches = {})
      : source_(source),
        cpu_(cpu),
        progress_(std::move(progress)),
        gpus_(gpus),
        streams_(streams),
        caches_(caches) {}
  backend::Cpu& cpu() { return cpu_; }
  /// Of the number in "cuda:0".
  backend::Gpu& gpu(int index);
  /// While they live, memory of all GPUs is what was set aside.
  std::vector<std::unique_ptr<backend::Gpu::Aside>> asides() const;
  /// The way of experts to that GPU; null: they stay.
  ExpertStream* expert_stream(int gpu) const;
  /// Experts of the CPU that are in that GPU's memory too; null: none.
  ExpertCache* expert_cache(int gpu) const;
  const io::WeightSource& source() const { return source_; }
  bool has(const std::string& name) const { return source_.find(name) != nullptr; }
  /// As require_tensor; the tensor counts as used.
  const io::TensorInfo& require(const WeightSpec& spec);
  /// A vector or small matrix as floats.
  std::vector<float> floats(const WeightSpec& spec);
  /// A matrix packed for this CPU, rows in parallel.
  backend::PackedMatrix matrix(const WeightSpec& spec, const Recode& recode = {});
  /// Several matrices in one buffer, so that small ones lie in huge pages too, packed as one
  /// parallel region; they are valid as long as `storage`. On several NUMA nodes each node's part
  /// of it holds that node's rows of every matrix, packed by the node's workers.
  std::vector<backend::PackedMatrix> matrices(const std::vector<WeightSpec>& specs,
                                              const Recode& recode, backend::NodeBuffer& storage);
  /// Throws kMismatch naming tensors of the source that no module asked for.
  void check_all_used() const;
  /// Counts a tensor read by hand as done and lets its pages go.
  void finished(const io::TensorInfo& info);

 private:
  struct Packing {
    const io::TensorInfo* info = nullptr;
    backend::PackedMatrix* matrix = nullptr;
  };
  // Memory for all, by node.
  void place(std::span<const Packing> matrices, backend::NodeBuffer& storage);
  void pack(std::span<const Packing> matrices, const Recode& recode);
  const io::WeightSource& source_;
  backend::Cpu& cpu_;
  Progress progress_;
  std::span<const std::unique_ptr<backend::Gpu>> gpus_;
  Streams streams_;
  Caches caches_;
  backend::SmallWeights small_;
  std::uint64_t bytes_done_ = 0;
  std::set<std::string> used_;
};

}  // namespace kt::operators
