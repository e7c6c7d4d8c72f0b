// The list of weight element formats and their scalar codecs.
//
// A row of n_cols values is stored as n_cols / block_len blocks of block_bytes each. Every format
// has a scalar decoder, which is the reference that all fast kernels are tested against; formats
// that the quantiser can write also have an encoder. One file per family holds block structs and
// codecs; formats.inc lists them all. Sources: ggml block layouts (GGUF specification), OCP MX 1.0,
// and each file's header. Thread rule: pure functions over constant tables.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace kt::formats {

/// Element format of a tensor. Values are ours, stable within one build only;
/// FormatTraits::ggml_type gives the number used in GGUF files.
enum class Format : std::uint8_t {
#define KT_FORMAT(id, name, ggml_type, block_len, block_bytes, decode, encode) id,
#include "formats/formats.inc"
#undef KT_FORMAT
};

/// Writes n values decoded from `blocks` to `out`. n is a multiple of block_len.
using DecodeRow = void (*)(const void* blocks, float* out, std::int64_t n) noexcept;

/// Writes n values, rounded to the format, to `blocks`. n is a multiple of block_len.
/// `importance` is null or n non-negative weights of the squared error (an importance matrix row).
using EncodeRow = void (*)(const float* values, const float* importance, void* blocks,
                           std::int64_t n) noexcept;

struct FormatTraits {
  Format format;
  std::string_view name;   // as in GGUF tooling: "Q4_K", "BF16", …
  int ggml_type;           // ggml_type number in GGUF files, or -1: not storable in GGUF
  std::int64_t block_len;  // values per block
  std::size_t block_bytes;
  DecodeRow decode;
  EncodeRow encode;  // null: read only
};

const FormatTraits& traits(Format format);
/// Format of a GGUF ggml_type number, or nothing when this build does not know it.
std::optional<Format> from_ggml_type(std::uint32_t ggml_type);
/// Case-insensitive lookup by name ("q4_k"), or nothing.
std::optional<Format> from_name(std::string_view name);
/// Bytes of a row of n values; n must be a multiple of block_len.
std::size_t row_bytes(Format format, std::int64_t n);

}  // namespace kt::formats
