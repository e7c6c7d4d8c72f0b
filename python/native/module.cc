#include "module.h"

NB_MODULE(_native, m) {
  m.doc() = "The C++ part of ktransformers; use the classes of the package instead.";
  m.attr("__version__") = KT_VERSION;
  kt::python::add_errors(m);
  kt::python::add_injection(m);
  kt::python::add_engine(m);
}
