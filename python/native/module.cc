#include "module.h"

NB_MODULE(_native, m) {
  m.doc() = "The C++ part of ktransformers; use the classes of the package instead.";
  // PyTorch keeps what is registered with it, and so this module, to the end of the process.
  nanobind::set_leak_warnings(false);
  m.attr("__version__") = KT_VERSION;
  kt::python::add_errors(m);
  kt::python::add_injection(m);
  kt::python::add_engine(m);
  kt::python::add_compute(m);
  kt::python::add_ops(m);
  kt::python::add_attention(m);
  kt::python::add_expert_layer(m);
  kt::python::add_cuda_ops(m);
}
