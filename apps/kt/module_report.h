// Where the time of a bench goes: one line per kind of module and place in the layer, with what it
// reaches and its share of this machine's ceiling.
//
//   decode: bytes of weights read per second against the measured memory bandwidth
//   prefill: multiply-adds per second against what the processor multiplies at most, in registers,
//            in the arithmetic of its products (bf16 tiles, int8, floats)
//
// Thread rule: main thread.
#pragma once
#include <string>

#include "session/session.h"

namespace kt::app {

/// What the machine can do at most, measured in under a second.
struct Ceilings {
  double bytes_per_second = 0.0;
  double flops = 0.0;  // 2 per multiply-add; 0 when no kernel measures it (--isa ref)
  std::string peak;    // the kernel that reaches them
};
Ceilings measure_ceilings(session::Session& session);

/// Table of the zones recorded since the trace was cleared. Decode counts weights as read once per
/// zone, prefill counts 2 operations per weight and row.
std::string module_report(session::Session& session, const Ceilings& ceilings, bool prefill);

}  // namespace kt::app
