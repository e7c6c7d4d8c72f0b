// Weights that quantised Hugging Face checkpoints spread over several tensors (codes, scales, zero
// points), read as rows of one self-contained block format.
//
//   block-FP8             weight F8_E4M3 [n, k], weight_scale_inv [⌈n/bn⌉, ⌈k/bk⌉]     →
//   F8_E4M3_B128 GPTQ                  qweight i32 [k/8, n], qzeros [k/g, n/8], scales [k/g, n] →
//   I4_<g> AWQ (gemm)            qweight i32 [k, n/8], qzeros [k/g, n/8], scales [k/g, n]     →
//   I4_<g> compressed-tensors    weight_packed i32 [n, k/8], weight_scale [n, k/g]            →
//   I4_<g> MXFP4 (gpt-oss)       *_blocks u8 [.., k/32, 16], *_scales u8 [.., k/32]           →
//   MXFP4
//   MXFP4 (DeepSeek-V4)          weight I8 [n, k/2], scale E8M0 [n, k/32]                     →
//   MXFP4
//
// What those formats cannot hold exactly (8-bit codes, act-order, group sizes other than 32, 64 and
// multiples of 128, rows that blocks do not divide) becomes F32, which is exact too: nothing is
// rounded here. Thread rule: pure.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "io/safetensors.h"
#include "tensor/tensor.h"

namespace kt::io {

/// A numeric array of some element type inside a mapped file (not necessarily aligned).
struct RawArray {
  SafeType type = SafeType::kF32;
  std::span<const std::byte> bytes;
  bool empty() const { return bytes.empty(); }
  std::int64_t count() const {
    return static_cast<std::int64_t>(bytes.size() / safe_type_bytes(type));
  }
  /// Element i as float: F32, F16, BF16, F8_E8M0, and U8 meaning E8M0.
  float number(std::int64_t i) const;
  /// Element i of an I32 array.
  std::uint32_t word(std::int64_t i) const;
};

/// FP8 codes [n, k] with one scale per block of block_n × block_k values.
struct Fp8Weight {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::span<const std::byte> codes;
  RawArray scales;  // [⌈n/block_n⌉, ⌈k/block_k⌉]
  std::int64_t block_n = 0;
  std::int64_t block_k = 0;
};

enum class Int4Packing { kGptq, kAwq, kRows };

/// Integer codes of 4 or 8 bits with scales and zero points per group of `group` values along k.
struct IntWeight {
  std::string name;  // for messages
  Int4Packing packing{};
  int bits = 4;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t group = 0;
  RawArray codes;
  RawArray scales;
  RawArray zeros;  // empty: all zero points are fixed_zero
  float fixed_zero = 8.0f;
  float zero_offset = 0.0f;  // added to stored zero points
  RawArray group_of;         // i32 [k], empty: group of column c is c / group
  bool scattered = false;    // group_of is not c / group

  std::int64_t n_groups() const { return (k + group - 1) / group; }
};

/// E2M1 codes, two to a byte with the even one in the low nibble, and an E8M0 scale for each 32.
struct Mxfp4Weight {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::span<const std::byte> codes;   // [n, k/2]
  std::span<const std::byte> scales;  // [n, k/32]
};

/// Row format that holds the weight exactly.
tensor::Format row_format(const Fp8Weight& weight);
tensor::Format row_format(const IntWeight& weight);

/// Checks that every array has the size that n, k, group and packing ask for. Throws kBadFile
/// naming the weight.
void check_sizes(const Fp8Weight& weight, const std::string& name, const std::string& path);
void check_sizes(const IntWeight& weight, const std::string& path);
void check_sizes(const Mxfp4Weight& weight, const std::string& name, const std::string& path);

/// Whether group_of names another group than c / group for some column c. Throws kBadFile for group
/// numbers out of range.
bool is_scattered(const IntWeight& weight, const std::string& path);

/// Rows [row, row + n_rows) as blocks of row_format(weight).
void read_rows(const Fp8Weight& weight, std::int64_t row, std::int64_t n_rows, std::byte* out);
void read_rows(const IntWeight& weight, std::int64_t row, std::int64_t n_rows, std::byte* out);
void read_rows(const Mxfp4Weight& weight, std::int64_t row, std::int64_t n_rows, std::byte* out);

/// n_blocks blocks of 32 values as gpt-oss stores them (16 bytes, even value in the low nibble)
/// with their E8M0 scales → MXFP4 blocks (17 bytes each) at `out`.
void convert_mxfp4(std::span<const std::byte> blocks, std::span<const std::byte> scales,
                   std::byte* out);

}  // namespace kt::io
