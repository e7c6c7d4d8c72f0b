#include "kernels/cpu/elementwise/elementwise.h"

namespace kt::kernels::elementwise {

#define KERNEL(isa, caps) extern const Table kTable_##isa;
#include "kernels/cpu/elementwise/kernels.inc"
#undef KERNEL

namespace {
const Table* const kTables[] = {
#define KERNEL(isa, caps) &kTable_##isa,
#include "kernels/cpu/elementwise/kernels.inc"
#undef KERNEL
};
}  // namespace

std::span<const Table* const> tables() { return kTables; }

const Table& select(CpuCaps caps) {
  for (const Table* t : kTables) {
    if ((caps & t->caps) == t->caps) return *t;
  }
  return *kTables[std::size(kTables) - 1];
}

}  // namespace kt::kernels::elementwise
