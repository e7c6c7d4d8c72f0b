#include "base/error.h"
#include "module.h"

namespace kt::python {

namespace nb = nanobind;

void add_errors(nb::module_&) {
  // Raised by name, so that the classes are ordinary Python (errors.py).
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& e) {
      const nb::object make = nb::module_::import_("ktransformers.errors").attr("make");
      const std::string_view code = error_code_name(e.code());
      const nb::object error =
          make(nb::str(code.data(), code.size()), nb::str(e.what()), nb::str(e.path().c_str()));
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    }
  });
}

}  // namespace kt::python
