// Writes a GGUF file of any type from any weight source: rows are decoded to float, rounded to the
// tensor's format (file_type.h) in parallel, and streamed out; extra memory is bounded by a few MiB
// per thread. Experts are stacked and llama's q and k rows permuted, as the GGUF convention has it.
// Thread rule: one thread calls; parallel inside.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "io/weight_source.h"
#include "session/file_type.h"

namespace kt::session {

struct QuantizeOptions {
  std::string output;
  std::string type = "Q4_K_M";
  std::string name;   // general.name; empty: the source's
  bool copy = false;  // tensors of a GGUF file as they are, `type` unused: only the header changes
  std::string imatrix;  // importance matrix file (GGUF or legacy .dat); empty: none
  /// Tensor about to be written, bytes done and in all.
  std::function<void(const std::string& tensor, std::uint64_t done, std::uint64_t total)>
      on_progress;
};

/// A tensor of the file that quantize() would write.
struct PlannedTensor {
  std::string name;  // in GGUF
  formats::Format format{};
  tensor::Shape shape;
};

struct QuantizeReport {
  std::uint64_t bytes = 0;  // of tensor data written
  std::int64_t n_tensors = 0;
  std::int64_t n_weights = 0;
};

/// What quantize() would write, in file order; writes nothing. Throws as quantize() does.
std::vector<PlannedTensor> plan_quantize(const io::WeightSource& source,
                                         const QuantizeOptions& options);

/// Throws kUsage (unknown type, a type that needs an importance matrix, output equal to the input),
/// kIo, kBadFile; leaves no partial file.
QuantizeReport quantize(const io::WeightSource& source, const QuantizeOptions& options,
                        ThreadPool& pool);

}  // namespace kt::session
