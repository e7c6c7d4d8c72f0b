#include "session/npy.h"

#include <fmt/format.h>

namespace kt::session {

NpyWriter::NpyWriter(const std::string& path, std::int64_t n_rows, std::int64_t n_cols)
    : file_(path) {
  std::string header = fmt::format(
      "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", n_rows, n_cols);
  constexpr std::size_t kPrefix = 10;  // magic, version, header length
  header.append(63 - (kPrefix + header.size()) % 64, ' ');
  header += '\n';
  const auto length = static_cast<std::uint16_t>(header.size());
  std::string prefix("\x93NUMPY\x01\x00", 8);
  prefix += static_cast<char>(length & 0xff);
  prefix += static_cast<char>(length >> 8);
  file_.write(prefix + header);
}

void NpyWriter::append(std::span<const float> row) { file_.write(std::as_bytes(row)); }

void NpyWriter::finish() { file_.finish(); }

}  // namespace kt::session
