// The module tree: every module has the path that the Hugging Face checkpoint gives it, which is
// its weight prefix, its rule key and its label in messages. Kinds (Linear, Experts, …) are
// interfaces in kinds.h; an operator is an implementation of a kind, one file each, listed in
// operators.inc.
//
// Life: constructed by a Builder from shapes only → load(Loader) reads and packs its own weights →
// run. Thread rule: built and loaded from one thread (loading is parallel inside); run as the step
// says.
#pragma once
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cpu/cpu.h"
#include "io/weight_source.h"
#include "tensor/tensor.h"

namespace kt::operators {

/// A tensor that a module reads from the checkpoint.
struct WeightSpec {
  std::string name;     // canonical name
  tensor::Shape shape;  // as in the checkpoint
};

/// What loading needs, and what it found.
class Loader {
 public:
  using Progress = std::function<void(std::uint64_t bytes_done)>;
  Loader(const io::WeightSource& source, backend::Cpu& cpu, Progress progress)
      : source_(source), cpu_(cpu), progress_(std::move(progress)) {}
  backend::Cpu& cpu() { return cpu_; }
  const io::WeightSource& source() const { return source_; }
  bool has(const std::string& name) const { return source_.find(name) != nullptr; }
  /// The tensor with this shape; throws kMismatch naming it when it is missing or shaped otherwise.
  const io::TensorInfo& require(const WeightSpec& spec);
  /// A vector or small matrix as floats.
  std::vector<float> floats(const WeightSpec& spec);
  /// A matrix packed for this CPU, rows in parallel.
  backend::PackedMatrix matrix(const WeightSpec& spec);
  /// Fills rows [0, n) of an already allocated matrix from a tensor of its format.
  void pack_into(const io::TensorInfo& info, backend::PackedMatrix& matrix);
  /// Throws kMismatch naming tensors of the source that no module asked for.
  void check_all_used() const;
  /// Counts a tensor read by hand as done and lets its pages go.
  void finished(const io::TensorInfo& info);

 private:
  const io::WeightSource& source_;
  backend::Cpu& cpu_;
  Progress progress_;
  std::uint64_t bytes_done_ = 0;
  std::set<std::string> used_;
};

class Module {
 public:
  Module(std::string path, std::string_view kind, std::string_view op)
      : path_(std::move(path)), kind_(kind), op_(op) {}
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const std::string& path() const { return path_; }
  std::string_view kind() const { return kind_; }  // "Linear", "Experts", …
  std::string_view op() const { return op_; }      // operator class, as rules write it
  const std::vector<Module*>& children() const { return children_; }
  void add_child(Module& child) { children_.push_back(&child); }

  /// Tensors of this module itself, children excluded.
  virtual std::vector<WeightSpec> weights() const { return {}; }
  /// Reads and packs this module's own weights.
  virtual void load(Loader&) {}
  /// Bytes of packed weights held by this module itself, and their format for people ("Q4_K").
  virtual std::uint64_t weight_bytes() const { return 0; }
  virtual std::string weight_format() const { return {}; }

 private:
  std::string path_;
  std::string_view kind_;
  std::string_view op_;
  std::vector<Module*> children_;
};

/// Visits a module and everything below it, parents first.
void walk(Module& root, const std::function<void(Module&)>& visit);

}  // namespace kt::operators
