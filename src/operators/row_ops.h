// What is done to whole rows of activations between modules, where the rows are.
// Thread rule: called by the thread that walks the tree.
#pragma once
#include "operators/activation.h"

namespace kt::operators {

/// The rows that want logits, in the order of Batch::logit_rows.
Activation pick_logit_rows(Step& step, Activation& x) noexcept;

/// Leaves logits on the GPU that has them, with lists of their rows for the host, where the step
/// asks for these; false where it does not, or the logits are in host memory.
bool list_logits(Step& step, Activation& logits) noexcept;

/// x on a GPU in bf16, n_cols apart; converted into temporary memory when it has another type.
const void* read_bf16(GpuStep& gpu, Activation& x) noexcept;

/// rows += x, on the GPU that has `rows`, else on the CPU.
void add_rows(Step& step, Activation& x, Activation& rows) noexcept;

/// rows += the outputs of experts that were deferred, if there are any.
void add_deferred(Step& step, Activation& rows) noexcept;

/// rows = 0, on a GPU, or on the CPU when there is none.
void clear_rows(Step& step, Activation& rows, std::optional<int> gpu) noexcept;

}  // namespace kt::operators
