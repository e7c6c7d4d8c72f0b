// Whether kernels of device/hopper.cuh can run: they are compiled for sm_90a alone, which no other
// device takes, and do nothing in code for others. Thread rule: pure but for the thread's device.
#pragma once

namespace kt::kernels::cuda {

/// Whether the thread's device runs code for sm_90a and this library has it.
bool has_wgmma();

}  // namespace kt::kernels::cuda
