// Deterministic random weights of any configuration, made row by row when they are read: the model
// that `kt bench --dummy`, `kt quantize --dummy` and the golden tests use. The same configuration,
// type and seed give the same bytes on every machine: values come from integer hashes, and every
// float operation on the way is exactly rounded.
//
//   value = near-Gaussian(hash(seed, tensor, row, column)) · scale;  norms = 1 + 0.1 ·
//   near-Gaussian
//
// Thread rule: const methods may run from any thread.
#pragma once
#include <memory>

#include "io/weight_source.h"
#include "session/file_type.h"

namespace kt::session {

struct DummyOptions {
  std::uint64_t seed = 1;
  /// Rows of large matrices are taken from a small pool of encoded rows: for speed measurements of
  /// models that would take hours to encode. Not for goldens.
  bool pooled = false;
  /// Above 0, routers prefer some experts, as trained ones do: their rows are scaled by
  /// (1 + n_experts · u)^-skew, u evenly random. At 0.5 a quarter of 128 experts gets 7 of 10 rows.
  double router_skew = 0.0;
};

/// The configuration of a config.json, cut to its first `layers` layers (0: all). Throws as
/// io::read_hf_config; kUsage when the model has fewer.
io::ModelConfig read_dummy_config(const std::string& path, std::int64_t layers);

std::unique_ptr<io::WeightSource> make_dummy_source(const io::ModelConfig& config,
                                                    const FileType& type,
                                                    const DummyOptions& options);

}  // namespace kt::session
