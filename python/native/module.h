// The extension module ktransformers._native: one function for each part adds that part's names.
// Bindings convert and check arguments, nothing more; what they bind lives in src/. Thread rule:
// called with Python's lock held.
#pragma once
#include <nanobind/nanobind.h>

namespace kt::python {

/// ktransformers.errors: kt::Error becomes the exception of its code.
void add_errors(nanobind::module_& m);
/// Injection, Sequences: operators inside a Transformers model.
void add_injection(nanobind::module_& m);
/// What ktransformers.Engine and ktransformers.plan are made of (engine.py, planning.py).
void add_engine(nanobind::module_& m);
/// For ktransformers.ops: threads, ops on arrays, attention, experts of a layer.
void add_compute(nanobind::module_& m);
void add_ops(nanobind::module_& m);
void add_attention(nanobind::module_& m);
void add_expert_layer(nanobind::module_& m);
/// The same ops on GPU memory, for ktransformers.cuda_ops.
void add_cuda_ops(nanobind::module_& m);

}  // namespace kt::python
