// The rows that experts get, as lists of (row, expert) pairs, chunk of experts by chunk, cut into
// pieces that are computed at a time:
//
//   piece: x_rows, ids, weights [n]   gather rows, multiply with expert `id` of the chunk
//          to_rows [n_to], begins [n_to + 1]   sums[to_rows[i]] += pairs begins[i] … begins[i + 1]
//
// Pairs are in the order of the rows, so that a row's are neighbours. Thread rule: values.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "operators/kinds.h"

namespace kt::operators {

struct PairLists {
  struct Piece {
    std::int64_t begin = 0, n = 0;        // in x_rows, ids, weights
    std::int64_t to_begin = 0, n_to = 0;  // in to_rows
    std::int64_t begins_begin = 0;        // in begins, which count from the piece's first pair
  };
  std::vector<std::vector<Piece>> pieces;  // of each chunk
  std::vector<std::int32_t> x_rows, ids, to_rows, begins;
  std::vector<float> weights;
};

/// `chunks`: experts of each; `wanted`: those that are computed, ascending. At most `at_once` pairs
/// a piece.
PairLists list_pairs(std::span<const std::vector<std::int32_t>> chunks,
                     std::span<const std::int32_t> wanted, const Routing& routing,
                     std::int64_t n_rows, std::int64_t n_experts, std::int64_t at_once);

}  // namespace kt::operators
