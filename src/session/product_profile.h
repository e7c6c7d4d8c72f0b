// How fast this CPU multiplies with weights of a format: the kernels that PackedMatrix chooses,
// each over the numbers of rows that it runs with, on weights that no cache holds.
//
//   jump:   (time of pieces of rows in random order - time in the order they lie) / pieces
//   few:    what runs at m = 1 … 128 rows, and for experts that get few
//   batch:  the kernel for batches, where there is one, at m = 2 … 512 rows of a step of kBatchRows
//           or more; of weights with one scale per row the one that they have
//
// Thread rule: one thread; the work is parallel inside.
#pragma once
#include <string_view>
#include <vector>

#include "backend/cpu/cpu.h"
#include "placement/machine.h"

namespace kt::session {

struct ProductProfile {
  placement::ProductRates rates;
  double pack = 0.0;              // bytes per second read, rearranged and written
  std::string_view batch_kernel;  // its name
};

/// Packs and multiplies `bytes` of weights (at least 64 rows of k, which suits the format) of a
/// format that can be encoded.
ProductProfile measure_products(backend::Cpu& cpu, placement::WeightKind kind, std::int64_t k,
                                std::uint64_t bytes);

}  // namespace kt::session
