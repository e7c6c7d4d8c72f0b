#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace kt {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage: return "usage";
    case ErrorCode::kNotFound: return "not_found";
    case ErrorCode::kBadFile: return "bad_file";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kMismatch: return "mismatch";
    case ErrorCode::kNoMemory: return "no_memory";
    case ErrorCode::kTooLong: return "too_long";
    case ErrorCode::kIo: return "io";
    case ErrorCode::kCancelled: return "cancelled";
    case ErrorCode::kInternal: return "internal";
  }
  return "internal";
}

int exit_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage: return 2;
    case ErrorCode::kNotFound: return 3;
    case ErrorCode::kBadFile: return 4;
    case ErrorCode::kUnsupported: return 5;
    case ErrorCode::kMismatch: return 6;
    case ErrorCode::kNoMemory: return 7;
    case ErrorCode::kTooLong: return 8;
    case ErrorCode::kIo: return 9;
    case ErrorCode::kCancelled: return 130;
    case ErrorCode::kInternal: return 70;
  }
  return 70;
}

void check_failed(const char* file, int line, const char* text) {
  std::fprintf(stderr, "kt: internal check failed at %s:%d: %s\n", file, line, text);
  std::abort();
}

}  // namespace kt
