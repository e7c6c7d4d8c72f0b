// Which experts of a layer were used most of late, and which of those that are not held should take
// the place of one that is.
//
//   use[e] = Σ over the past  rows that chose e · 2^(-rows since / kHalfLife)
//
// An expert replaces another when its use is larger by more than chance explains: counts of rare
// events scatter by their square root. So experts that are used alike do not push each other out,
// and a hot one comes in after some ten uses. Thread rule: a value.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

namespace kt::operators {

/// What is known of routers before a model runs: layer → how often a row chooses each of its
/// experts, [n_experts], 0 to 1.
using ExpertProfile = std::map<std::int64_t, std::vector<float>>;

class HotExperts {
 public:
  static constexpr double kHalfLife = 256.0;  // rows
  static constexpr float kCertain = 3.0f;     // standard deviations

  /// None is held.
  HotExperts(std::int64_t n_experts, std::int64_t n_slots)
      : use_(static_cast<std::size_t>(n_experts)),
        fresh_(static_cast<std::size_t>(n_experts)),
        slot_of_(static_cast<std::size_t>(n_experts), -1),
        expert_in_(static_cast<std::size_t>(n_slots), -1) {}

  /// [n_experts] slots, -1: none.
  const std::vector<std::int32_t>& slots() const { return slot_of_; }
  bool holds(std::int32_t expert) const { return slot_of_[static_cast<std::size_t>(expert)] >= 0; }
  std::int64_t n_slots() const { return static_cast<std::int64_t>(expert_in_.size()); }
  std::int64_t n_experts() const { return static_cast<std::int64_t>(slot_of_.size()); }
  std::int64_t n_held() const;

  /// As if rows had long chosen so: [n_experts] uses a row.
  void expect(std::span<const float> uses);
  /// All, those used most first, else in their order.
  std::vector<std::int32_t> most_used() const;

  void put(std::int32_t expert, std::int32_t slot);
  /// Empties a slot.
  void drop(std::int32_t slot);

  /// A row chose it; rows that passed, of which these were.
  void use(std::int32_t expert) { ++fresh_[static_cast<std::size_t>(expert)]; }
  void pass(std::int64_t n_rows) { fresh_rows_ += n_rows; }
  /// Adds the fresh counts, and lets all grow old by their rows.
  void age();

  struct Change {
    float gain = 0.0f;  // uses
    std::int32_t expert = 0, slot = 0;
  };
  /// The best one, if any is worth it; age() comes before. An empty slot takes any that was used.
  std::optional<Change> change() const;

 private:
  std::vector<float> use_;           // [n_experts]
  std::vector<std::int32_t> fresh_;  // [n_experts]
  std::int64_t fresh_rows_ = 0;
  std::vector<std::int32_t> slot_of_;    // [n_experts]
  std::vector<std::int32_t> expert_in_;  // [n_slots]
};

}  // namespace kt::operators
