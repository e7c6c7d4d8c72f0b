// The module tree: every module has the path that the Hugging Face checkpoint gives it, which is
// its weight prefix, its rule key and its label in traces and messages. Kinds (Linear, Experts, …)
// are interfaces in kinds.h; an operator is an implementation of a kind, one file each, listed in
// operators.inc.
//
// Life: constructed by a Builder from shapes only → check(headers) → load(Loader) reads and packs
// its own weights → run. Thread rule: built and loaded from one thread (loading is parallel
// inside); run as the step says.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "operators/kept.h"

namespace kt::operators {

/// Where a module stands and what it is: filled by the Builder from the placement.
struct Site {
  std::string path;
  std::string op;          // operator class, as rules write it
  std::string rule_class;  // class that the rule named (a wrapper, or the same as op); may be empty
  std::string device;      // "cpu", "cuda:0"
};

class Module {
 public:
  Module(Site site, std::string_view kind) : site_(std::move(site)), kind_(kind) {}
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const std::string& path() const { return site_.path; }
  const Site& site() const { return site_; }
  std::string_view kind() const { return kind_; }  // "Linear", "Experts", …
  std::string_view op() const { return site_.op; }
  const std::vector<Module*>& children() const { return children_; }
  void add_child(Module& child) { children_.push_back(&child); }

  /// Whether run() only hands on to another module of this path, which opens the trace zone.
  virtual bool hands_on() const { return false; }
  /// Tensors of this module itself, children excluded.
  virtual std::vector<WeightSpec> weights() const { return {}; }
  /// Throws kMismatch or kUnsupported when this module cannot use the file's weights; reads headers
  /// only. The default asks for weights() with their shapes.
  virtual void check(const io::WeightSource& source) const;
  /// What load() will keep, from headers; `act` as of the CPU that runs it. The default keeps
  /// weights() as stored. Throws as check().
  virtual Kept kept(const io::WeightSource& source, backend::ActPolicy act) const;
  /// Reads and packs this module's own weights.
  virtual void load(Loader&) {}
  /// Gives the packed weights' memory back; load() may follow.
  virtual void unload() {}
  /// Bytes of packed weights held by this module itself, and their format for people ("Q4_K").
  virtual std::uint64_t weight_bytes() const { return 0; }
  virtual std::string weight_format() const { return {}; }
  /// How they are computed, for people ("dot q4_k avx512vnni"); empty when there is nothing to say.
  virtual std::string kernel_name() const { return {}; }
  /// Whether loaded weights are multiplied by other kernels, which round otherwise, in steps of
  /// backend::kBatchRows rows or more.
  virtual bool batches_differ() const { return false; }

 private:
  Site site_;
  std::string_view kind_;
  std::vector<Module*> children_;
};

/// Visits a module and everything below it, parents first.
void walk(Module& root, const std::function<void(Module&)>& visit);

}  // namespace kt::operators
