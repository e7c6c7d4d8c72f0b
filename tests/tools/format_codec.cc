// Test tool: runs the scalar codec of one weight format over a stream.
//   format_codec decode FORMAT N [n_rows] < blocks > floats
//   format_codec encode FORMAT N [n_rows] < floats > blocks
//   format_codec list            one line per format: name ggml_type block_len block_bytes
//   can_encode
// N values per row; floats are raw little-endian binary32.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "formats/format.h"

namespace {

using kt::formats::Format;
using kt::formats::FormatTraits;

constexpr std::uint32_t kMaxGgmlType = 1000;

int usage() {
  std::fprintf(stderr,
               "usage: format_codec decode|encode FORMAT N [N_ROWS] < in > out\n"
               "       format_codec list\n");
  return 2;
}

void print_format(const FormatTraits& t) {
  std::printf("%.*s %d %lld %zu %d\n", static_cast<int>(t.name.size()), t.name.data(), t.ggml_type,
              static_cast<long long>(t.block_len), t.block_bytes, t.encode != nullptr ? 1 : 0);
}

int list() {
  for (std::uint32_t type = 0; type < kMaxGgmlType; ++type) {
    if (const auto format = kt::formats::from_ggml_type(type)) {
      print_format(kt::formats::traits(*format));
    }
  }
  return 0;
}

bool read_all(void* data, std::size_t size) { return std::fread(data, 1, size, stdin) == size; }

bool write_all(const void* data, std::size_t size) {
  return std::fwrite(data, 1, size, stdout) == size;
}

bool convert_row(const FormatTraits& t, bool decode, std::vector<float>* values,
                 std::vector<unsigned char>* blocks) {
  const auto n = static_cast<std::int64_t>(values->size());
  const std::size_t n_bytes = values->size() * sizeof(float);
  if (decode) {
    if (!read_all(blocks->data(), blocks->size())) return false;
    t.decode(blocks->data(), values->data(), n);
    return write_all(values->data(), n_bytes);
  }
  if (!read_all(values->data(), n_bytes)) return false;
  t.encode(values->data(), nullptr, blocks->data(), n);
  return write_all(blocks->data(), blocks->size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "list") return list();
  if (argc != 4 && argc != 5) return usage();
  const bool decode = std::string_view(argv[1]) == "decode";
  if (!decode && std::string_view(argv[1]) != "encode") return usage();
  const auto format = kt::formats::from_name(argv[2]);
  const long long n = std::atoll(argv[3]), n_rows = argc == 5 ? std::atoll(argv[4]) : 1;
  if (!format || n <= 0 || n > (1 << 26) || n_rows <= 0) return usage();
  const FormatTraits& t = kt::formats::traits(*format);
  if (n % t.block_len != 0 || (!decode && t.encode == nullptr)) return usage();
  std::vector<float> values(static_cast<std::size_t>(n));
  std::vector<unsigned char> blocks(kt::formats::row_bytes(*format, n));
  for (long long r = 0; r < n_rows; ++r) {
    if (!convert_row(t, decode, &values, &blocks)) {
      std::fprintf(stderr, "format_codec: row %lld of %lld is missing on stdin\n", r, n_rows);
      return 1;
    }
  }
  return 0;
}
