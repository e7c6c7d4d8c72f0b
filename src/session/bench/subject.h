// One thing that a bench measures at several sizes, and how: warm-up, calls until there are enough
// samples and enough time; just before and after, reads of the same pages and passes of the peak
// kernel, for other programs may take a part of the machine at any time. These are medians of
// pieces that last about as long as a call, so that both are disturbed alike.
//
//   weight rate = bytes of weights that a call reads / median time,  share = that / read rate
//   arithmetic rate = 2 · multiply-adds / median time,               share = that / peak
//
// Thread rule: one thread measures; the work is parallel inside.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/peak/peak.h"
#include "session/bandwidth.h"
#include "session/bench/cases.h"
#include "session/bench/statistics.h"

namespace kt::session::bench {

/// One timed call.
struct Sample {
  double seconds = 0.0;
  double weight_bytes = 0.0;  // packed weights read, each counted once
  double operations = 0.0;    // 2 per multiply-add
};

/// Arithmetic that bounds a kernel.
using kernels::peak::Arithmetic;
/// Of a kernel with these activations and weights. BF16 weights with float activations could be
/// multiplied as BF16 where the CPU does that.
Arithmetic arithmetic_of(kernels::dot::Act act, formats::Format weight);
const char* name_of(Arithmetic arithmetic);  // "f32", "bf16", "int8", "int16"

class Subject {
 public:
  virtual ~Subject() = default;
  /// Makes inputs of m rows.
  virtual void prepare(std::int64_t m) = 0;
  virtual Sample run() noexcept = 0;
  /// ‖y - y64‖ / ‖y64‖ of a few rows, y64 in float64 on the dequantised weights and the
  /// unquantised input.
  virtual double error() = 0;
  /// Where the weights lie.
  virtual std::vector<Region> memory() const = 0;
  virtual Arithmetic arithmetic() const = 0;
  /// Kernel row that does most of the work.
  virtual std::string kernel() const = 0;
  virtual std::int64_t n_experts() const { return 0; }  // 0: no MoE layer
  virtual std::int64_t n_copies() const = 0;            // layers or matrices in rotation
  /// Its sizes for people; empty: those of its case tell them.
  virtual std::string about() const { return {}; }
  /// What is not as asked for; empty: nothing.
  virtual std::string note() const { return {}; }
};

struct Limits {
  std::uint64_t cache_bytes = 0;  // of the last level; weights in rotation are 4 times that or more
  std::uint64_t memory = 0;       // bytes that the weights may take
  std::int64_t largest = 1;       // rows of the largest input
};
std::unique_ptr<Subject> make_dot_subject(backend::Cpu& cpu, const Case& what,
                                          const Limits& limits);
std::unique_ptr<Subject> make_moe_subject(backend::Cpu& cpu, const Case& what,
                                          const Limits& limits);
/// "Weights" are what the cache holds.
std::unique_ptr<Subject> make_attention_subject(backend::Cpu& cpu, const Case& what,
                                                const Limits& limits);

/// What came out at one size.
struct Result {
  std::string name;    // of the case
  std::string kernel;  // that ran
  std::string format;
  std::string shape;
  std::int64_t d_model = 0, d_ff = 0, n_experts = 0, n_active = 0;
  std::int64_t n_copies = 0;
  std::int64_t context = 0;      // of attention
  std::string about;             // Subject::about()
  double bits_per_weight = 0.0;  // as packed
  std::int64_t m = 0;
  Summary seconds;
  double bytes_per_second = 0.0;  // of weights
  double ops_per_second = 0.0;
  double read = 0.0;  // bytes per second of reading the same pages, just before and after
  Arithmetic arithmetic{};
  double peak = 0.0;  // operations per second of the fastest peak kernel, just before and after
  double error = 0.0;
  bool slower_than_next = false;
  bool repeated = false;
  std::string note;
};

struct Sampling {
  std::vector<std::int64_t> sizes;  // ascending
  std::int64_t least = 5;           // samples
  double seconds = 0.3;             // per size, when samples are cheap
  /// Says that a result wants a second measurement; the faster of both counts.
  std::function<bool(const Result&)> doubt;
  /// Operations per second that the machine does now, over about so many seconds; null: not asked.
  std::function<double(Arithmetic, double seconds)> peak_now;
  std::function<void(const std::string&)> progress;
};

/// One result per size.
std::vector<Result> measure(backend::Cpu& cpu, const Case& what, Subject& subject,
                            const Sampling& sampling);

}  // namespace kt::session::bench
