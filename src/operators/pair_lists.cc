#include "operators/pair_lists.h"

#include <algorithm>

namespace kt::operators {
namespace {

/// Where an expert is computed.
struct Place {
  std::int32_t chunk = -1, id = 0;
};

std::vector<Place> places_of(std::span<const std::vector<std::int32_t>> chunks,
                             std::span<const std::int32_t> wanted, std::int64_t n_experts) {
  std::vector<Place> places(static_cast<std::size_t>(n_experts));
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    for (std::size_t i = 0; i < chunks[c].size(); ++i) {
      if (!std::binary_search(wanted.begin(), wanted.end(), chunks[c][i])) continue;
      places[static_cast<std::size_t>(chunks[c][i])] = {static_cast<std::int32_t>(c),
                                                        static_cast<std::int32_t>(i)};
    }
  }
  return places;
}

struct Pair {
  std::int32_t row, id;
  float weight;
};

void add_pair(const Pair& pair, std::int64_t at_once, std::vector<PairLists::Piece>& pieces,
              PairLists& lists) {
  const auto end_piece = [&] {
    if (!pieces.empty()) lists.begins.push_back(static_cast<std::int32_t>(pieces.back().n));
  };
  const auto size = [](const auto& v) { return static_cast<std::int64_t>(v.size()); };
  if (pieces.empty() || pieces.back().n == at_once) {
    end_piece();
    pieces.push_back({size(lists.x_rows), 0, size(lists.to_rows), 0, size(lists.begins)});
  }
  PairLists::Piece& piece = pieces.back();
  if (piece.n_to == 0 || lists.to_rows.back() != pair.row) {
    lists.to_rows.push_back(pair.row);
    lists.begins.push_back(static_cast<std::int32_t>(piece.n));
    ++piece.n_to;
  }
  ++piece.n;
  lists.x_rows.push_back(pair.row);
  lists.ids.push_back(pair.id);
  lists.weights.push_back(pair.weight);
}

}  // namespace

PairLists list_pairs(std::span<const std::vector<std::int32_t>> chunks,
                     std::span<const std::int32_t> wanted, const Routing& routing,
                     std::int64_t n_rows, std::int64_t n_experts, std::int64_t at_once) {
  const std::vector<Place> places = places_of(chunks, wanted, n_experts);
  std::vector<std::vector<Pair>> pairs(chunks.size());
  for (std::int64_t i = 0; i < n_rows * routing.n_active; ++i) {
    if (routing.ids[i] < 0) continue;
    const Place place = places[static_cast<std::size_t>(routing.ids[i])];
    if (place.chunk < 0) continue;
    pairs[static_cast<std::size_t>(place.chunk)].push_back(
        {static_cast<std::int32_t>(i / routing.n_active), place.id, routing.weights[i]});
  }
  PairLists lists;
  for (const std::vector<Pair>& chunk : pairs) {
    std::vector<PairLists::Piece>& pieces = lists.pieces.emplace_back();
    for (const Pair& pair : chunk) add_pair(pair, at_once, pieces, lists);
    if (!pieces.empty()) lists.begins.push_back(static_cast<std::int32_t>(pieces.back().n));
  }
  return lists;
}

}  // namespace kt::operators
