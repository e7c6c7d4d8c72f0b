// Experts that are in host memory and, some of each layer, in the memory of a GPU too: in every
// step the GPU computes those of a layer that it has, and the CPU the others at the same time.
//
//   router's ids → GPU: place[id] = slot or -1 → moe(slots)      CPU: the ids whose place is -1
//
// Which ones: at first the first, or those that a profile says; then those that were used most,
// counted with ageing. Between steps a few that are used
// more than ones that are there take their slots (HotExperts). A slot changes hands in two steps:
// first its old expert is the CPU's again, and the slot is filled on the stream of copies, after
// all that may still read it; once it is full, its new expert becomes the GPU's. Tables and slots
// keep their addresses, so that recorded steps stay valid. Thread rule: as the Gpu.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "operators/expert_stream.h"
#include "operators/hot_experts.h"

namespace kt::operators {

class ExpertCache {
 public:
  /// `stream` pins the experts and brings them; layers have at most so many bytes an expert. Takes
  /// memory for one on its way. A profile has all layers. Throws kNoMemory.
  ExpertCache(ExpertStream& stream, std::size_t expert_bytes, ExpertCacheMode mode,
              ExpertProfile profile = {});
  ~ExpertCache();
  ExpertCache(const ExpertCache&) = delete;
  ExpertCache& operator=(const ExpertCache&) = delete;

  backend::Gpu& gpu() const { return stream_.gpu(); }

  /// Takes memory for n_slots experts of a layer and fills it with those that the profile says are
  /// used most, without one with the first. Throws kNoMemory. The handle is for the other
  /// functions; remove() comes before the stream's.
  class Layer;
  Layer* add(ExpertStream::Layer source, std::int64_t n_slots);
  void remove(Layer* layer);

  /// Whether the GPU computes this expert in the coming step.
  static bool holds(const Layer& layer, std::int32_t expert);
  static std::int64_t n_slots(const Layer& layer);
  /// Counts what a step's rows chose; what is deferred comes beside the same rows' other choices.
  static void count(Layer& layer, const Routing& routing, std::int64_t n_rows);

  /// result = Σ weight · expert(x) of those that it holds. `result` is in f32.
  void run(Step& step, const Layer& layer, Activation& x, const Routing& routing,
           Activation& result) noexcept;

  /// From now on experts may move.
  void start();
  /// Between steps, before one of n_rows rows. Errors are the GPU's; a step must not run after one.
  void update(GpuStep& gpu, std::int64_t n_rows) noexcept;

  /// For people: what is in it.
  std::string describe() const;

 private:
  struct Move {
    Layer* layer = nullptr;
    std::int32_t expert = 0, slot = 0;
  };
  struct Candidate {
    float gain = 0.0f;
    Move move;
  };
  static Routing to_slots(GpuStep& gpu, const Layer& layer, const Routing& routing,
                          std::int64_t n_rows) noexcept;
  void choose_moves();
  void send_tables(GpuStep& gpu) noexcept;
  void send_experts(GpuStep& gpu) noexcept;
  bool may_move() const;

  ExpertStream& stream_;
  ExpertCacheMode mode_;
  ExpertProfile profile_;
  std::byte* staging_ = nullptr;
  std::vector<std::unique_ptr<Layer>> layers_;
  bool started_ = false;
  bool tables_lost_ = false;  // what the GPU's tables hold is not known
  std::vector<Move> moves_;   // on their way
  std::vector<Candidate> candidates_;
  backend::PinnedMemory image_;
  backend::GpuEvent sent_, free_, arrived_;
};

}  // namespace kt::operators
