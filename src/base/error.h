// The one exception type of the cold path (parse, load, plan, admit), and the mapping of its codes
// to process exit codes. Hot paths are noexcept and never throw.
//
//   message = where, what was got, what was wanted, what to do next  (one line)
//
// Thread rule: stateless.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace kt {

enum class ErrorCode {
  kUsage,        // the command line, a flag or a request is wrong
  kNotFound,     // a file, model, tensor or name does not exist
  kBadFile,      // a file is truncated, corrupt or lies about its contents
  kUnsupported,  // well-formed, but an architecture, format or mode this build does not have
  kMismatch,     // weights, configuration and tokenizer do not belong together
  kNoMemory,     // does not fit
  kTooLong,      // prompt or request exceeds the context
  kIo,           // the operating system refused a read or write
  kCancelled,    // the user or a deadline stopped it
  kInternal,     // a bug here
};

/// Name as printed and as mapped to Python exceptions, e.g. "bad_file".
std::string_view error_code_name(ErrorCode code);

/// Process exit status of an error class: usage 2, not_found 3, bad_file 4, unsupported 5, mismatch
/// 6, no_memory 7, too_long 8, io 9, cancelled 130, internal 70.
int exit_status(ErrorCode code);

/// Thrown by the cold path only. `path` names the file, module or request field concerned, or is
/// empty.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string path = {})
      : std::runtime_error(path.empty() ? message : path + ": " + message),
        code_(code),
        path_(std::move(path)) {}
  ErrorCode code() const { return code_; }
  const std::string& path() const { return path_; }

 private:
  ErrorCode code_;
  std::string path_;
};

/// throw Error with a fmt-formatted message: fail(ErrorCode::kBadFile, path, "tensor {} …", name).
template <class... Args>
[[noreturn]] void fail(ErrorCode code, std::string path, fmt::format_string<Args...> format,
                       Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...), std::move(path));
}

/// Ends the process with file, line and text. For bugs only; no input may reach it.
[[noreturn]] void check_failed(const char* file, int line, const char* text);

}  // namespace kt

#define KT_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::kt::check_failed(__FILE__, __LINE__, #condition))
