// Where a step's numbers first go wrong: after a NaN or infinity was seen, its batch runs once
// more, layer by layer, and the rows between the modules are looked at. Costs nothing while all is
// well.
//
//   embed → x | layer: attention → x, mlp → delta | … | norm → hidden | head → logits
//
// Thread rule: finite(): any; describe_not_finite(): the thread that walks the tree.
#pragma once
#include <bit>
#include <cstdint>
#include <span>
#include <string>

#include "operators/layered.h"

namespace kt::engine {

/// Whether no value is NaN or infinite.
inline bool finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent =
      0x7f800000u;  // all ones: NaN or infinity; no branch, so it vectorises
  std::uint32_t bad = 0;
  for (const float v : values)
    bad |= (std::bit_cast<std::uint32_t>(v) & kExponent) == kExponent ? 1u : 0u;
  return bad == 0;
}

/// The first module whose output is not finite, with its device, for the end of a message: ", first
/// in model.layers.17.mlp (cuda:0)"; empty when a GPU fails now. `model` is `layered`; the step's
/// cache rows are written again, its GPUs begin and end it here.
std::string describe_not_finite(operators::Model& model, operators::Layered& layered,
                                operators::Step& step);

}  // namespace kt::engine
