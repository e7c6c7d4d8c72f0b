#include "formats/format.h"

#include <algorithm>

#include "formats/basic_quants.h"
#include "formats/checkpoint_quants.h"
#include "formats/fp4_quants.h"
#include "formats/iq4_quants.h"
#include "formats/iq_quants.h"
#include "formats/k_quants.h"
#include "formats/plain.h"
#include "formats/ternary_quants.h"

namespace kt::formats {
namespace {

constexpr FormatTraits kTraits[] = {
#define KT_FORMAT(id, name, ggml_type, block_len, block_bytes, decode, encode) \
  {Format::id, name, ggml_type, block_len, block_bytes, decode, encode},
#include "formats/formats.inc"
#undef KT_FORMAT
};

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

const FormatTraits& traits(Format format) { return kTraits[static_cast<std::size_t>(format)]; }

std::optional<Format> from_ggml_type(std::uint32_t ggml_type) {
  for (const FormatTraits& t : kTraits) {
    if (t.ggml_type >= 0 && static_cast<std::uint32_t>(t.ggml_type) == ggml_type) return t.format;
  }
  return std::nullopt;
}

std::optional<Format> from_name(std::string_view name) {
  for (const FormatTraits& t : kTraits) {
    if (std::equal(name.begin(), name.end(), t.name.begin(), t.name.end(),
                   [](char a, char b) { return lower(a) == lower(b); })) {
      return t.format;
    }
  }
  return std::nullopt;
}

std::size_t row_bytes(Format format, std::int64_t n) {
  const FormatTraits& t = traits(format);
  return static_cast<std::size_t>(n / t.block_len) * t.block_bytes;
}

}  // namespace kt::formats
