// `kt bench --kernels`: its flags, and its report as text or JSON.
// Thread rule: main thread.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "session/session.h"

namespace kt::app {

struct KernelBenchArgs {
  std::string filter;
  std::string formats;
  std::string shapes;
  std::string sizes;
  std::string baseline;
};

/// --kernels --formats --shapes --m --baseline.
void add_kernel_bench_options(CLI::App& command, KernelBenchArgs& args);

/// Throws kUsage when one of the others was given without --kernels.
void refuse_kernel_bench_options(const CLI::App& command);

/// Where results go: a table on standard output, or JSON there or in a file.
struct JsonTarget {
  bool wanted = false;
  std::string file;  // empty: standard output
};

/// Throws kUsage when `command` got flags that only a model's bench takes. The exit status is 1
/// when the baseline was faster.
int kernel_bench(const CLI::App& command, const KernelBenchArgs& args,
                 const session::Options& options, int repetitions, const JsonTarget& json);

}  // namespace kt::app
