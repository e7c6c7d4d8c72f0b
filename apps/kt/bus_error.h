// What a SIGBUS means to a program that maps its model: the file became shorter, or its disk
// failed. The handler prints one line that names the file and leaves with the status of an
// input/output error; nothing can go on, since any thread may be in the middle of a product. Faults
// outside a mapped file keep their default end. Thread rule: install once, from the main thread.
#pragma once

namespace kt::app {

void install_bus_error_handler();

}  // namespace kt::app
