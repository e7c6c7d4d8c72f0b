#include "io/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "formats/checkpoint_quants.h"
#include "formats/fp4_quants.h"
#include "io/quote.h"

namespace kt::io {
namespace {

using formats::Format;

template <class T>
T load(std::span<const std::byte> bytes, std::int64_t i) {
  T value;
  std::memcpy(&value, bytes.data() + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// A tile of rows is unpacked at once because GPTQ and AWQ store neighbouring rows side by side.
constexpr std::int64_t kTileRows = 16;

/// Codes of rows [row, row + n_rows) as bytes, [n_rows, k].
void unpack_codes(const IntWeight& w, std::int64_t row, std::int64_t n_rows, std::uint8_t* out) {
  const std::int64_t per_word = 32 / w.bits;
  const std::uint32_t mask = (1u << w.bits) - 1;
  if (w.packing == Int4Packing::kRows) {
    const std::int64_t words_per_row = ceil_div(w.k, per_word);
    for (std::int64_t r = 0; r < n_rows; ++r) {
      for (std::int64_t c = 0; c < w.k; ++c) {
        const std::uint32_t word = w.codes.word((row + r) * words_per_row + c / per_word);
        out[r * w.k + c] = static_cast<std::uint8_t>((word >> (c % per_word * w.bits)) & mask);
      }
    }
    return;
  }
  if (w.packing == Int4Packing::kGptq) {
    for (std::int64_t word_row = 0; word_row < w.k / per_word; ++word_row) {
      for (std::int64_t r = 0; r < n_rows; ++r) {
        const std::uint32_t word = w.codes.word(word_row * w.n + row + r);
        std::uint8_t* to = out + r * w.k + word_row * per_word;
        for (std::int64_t i = 0; i < per_word; ++i) {
          to[i] = static_cast<std::uint8_t>((word >> (i * w.bits)) & mask);
        }
      }
    }
    return;
  }
  // AWQ's order of the eight columns of a word: nibble i holds column {0, 2, 4, 6, 1, 3, 5, 7}[i].
  constexpr int kNibbleOfColumn[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  for (std::int64_t c = 0; c < w.k; ++c) {
    for (std::int64_t r = 0; r < n_rows; ++r) {
      const std::uint32_t word = w.codes.word(c * (w.n / 8) + (row + r) / 8);
      out[r * w.k + c] =
          static_cast<std::uint8_t>((word >> (4 * kNibbleOfColumn[(row + r) % 8])) & 15u);
    }
  }
}

float zero_of(const IntWeight& w, std::int64_t row, std::int64_t group) {
  if (w.zeros.empty()) return w.fixed_zero;
  const std::int64_t per_word = 32 / w.bits;
  const std::uint32_t mask = (1u << w.bits) - 1;
  constexpr int kNibbleOfColumn[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  std::int64_t word_index = 0;
  std::int64_t slot = row % per_word;
  if (w.packing == Int4Packing::kRows) {
    word_index = row / per_word * w.n_groups() + group;
  } else {
    word_index = group * (w.n / per_word) + row / per_word;
    if (w.packing == Int4Packing::kAwq) slot = kNibbleOfColumn[slot];
  }
  const std::uint32_t code = (w.zeros.word(word_index) >> (slot * w.bits)) & mask;
  return static_cast<float>(code) + w.zero_offset;
}

float scale_of(const IntWeight& w, std::int64_t row, std::int64_t group) {
  const bool by_row = w.packing == Int4Packing::kRows;
  return w.scales.number(by_row ? row * w.n_groups() + group : group * w.n + row);
}

template <int kLen>
void pack_int4_row(const IntWeight& w, std::int64_t row, const std::uint8_t* codes,
                   std::byte* out) {
  for (std::int64_t begin = 0; begin < w.k; begin += kLen) {
    formats::BlockI4<kLen> block;
    const std::int64_t group = begin / w.group;
    block.scale = scale_of(w, row, group);
    block.zero = zero_of(w, row, group);
    for (int j = 0; j < kLen / 2; ++j) {
      block.q[j] = static_cast<std::uint8_t>(codes[begin + j] | codes[begin + j + kLen / 2] << 4);
    }
    std::memcpy(out, &block, sizeof(block));
    out += sizeof(block);
  }
}

void decode_int_row(const IntWeight& w, std::int64_t row, const std::uint8_t* codes,
                    std::byte* out) {
  std::vector<float> scales(static_cast<std::size_t>(w.n_groups()));
  std::vector<float> zeros(scales.size());
  for (std::size_t g = 0; g < scales.size(); ++g) {
    scales[g] = scale_of(w, row, static_cast<std::int64_t>(g));
    zeros[g] = zero_of(w, row, static_cast<std::int64_t>(g));
  }
  for (std::int64_t c = 0; c < w.k; ++c) {
    const auto g = w.scattered ? static_cast<std::size_t>(w.group_of.word(c))
                               : static_cast<std::size_t>(c / w.group);
    const float value = (static_cast<float>(codes[c]) - zeros[g]) * scales[g];
    std::memcpy(out + static_cast<std::size_t>(c) * sizeof(float), &value, sizeof(float));
  }
}

void check_count(const RawArray& array, std::int64_t wanted, const char* what,
                 const std::string& name, const std::string& path) {
  if (array.count() != wanted) {
    fail(ErrorCode::kBadFile, path,
         "weight {} has {} {}, {} are wanted; the file and its quantization_config do "
         "not belong together",
         quote(name), array.count(), what, wanted);
  }
}

void check_word_type(const RawArray& array, const std::string& name, const std::string& path) {
  if (array.type != SafeType::kI32 && array.type != SafeType::kU32) {
    fail(ErrorCode::kBadFile, path, "weight {} is packed in {}, I32 is wanted", quote(name),
         safe_type_name(array.type));
  }
}

void check_scale_type(const RawArray& array, const std::string& name, const std::string& path) {
  switch (array.type) {
    case SafeType::kF32:
    case SafeType::kF16:
    case SafeType::kBF16:
    case SafeType::kF8_E8M0:
    case SafeType::kU8: return;
    default:
      fail(ErrorCode::kUnsupported, path,
           "weight {} has scales of type {}; F32, F16, BF16 and F8_E8M0 are "
           "supported",
           quote(name), safe_type_name(array.type));
  }
}

}  // namespace

float RawArray::number(std::int64_t i) const {
  switch (type) {
    case SafeType::kF32: return load<float>(bytes, i);
    case SafeType::kF16: return fp16_to_f32(load<std::uint16_t>(bytes, i));
    case SafeType::kBF16: return bf16_to_f32(load<std::uint16_t>(bytes, i));
    default: return e8m0_to_f32(load<std::uint8_t>(bytes, i));
  }
}

std::uint32_t RawArray::word(std::int64_t i) const { return load<std::uint32_t>(bytes, i); }

tensor::Format row_format(const Fp8Weight& weight) {
  const bool whole_blocks =
      weight.k % 128 == 0 && (weight.block_k % 128 == 0 || weight.block_k >= weight.k);
  return whole_blocks ? Format::kF8_E4M3_B128 : Format::kF32;
}

tensor::Format row_format(const IntWeight& weight) {
  if (weight.bits != 4 || weight.scattered) return Format::kF32;
  // A group longer than a block repeats its scale in each; a ragged last group does not divide k.
  const bool whole_row = weight.group >= weight.k;
  for (const auto& [length, format] :
       {std::pair{128, Format::kI4_128}, std::pair{64, Format::kI4_64},
        std::pair{32, Format::kI4_32}}) {
    if (weight.k % length == 0 && (weight.group % length == 0 || whole_row)) return format;
  }
  return Format::kF32;
}

void check_sizes(const Fp8Weight& weight, const std::string& name, const std::string& path) {
  check_scale_type(weight.scales, name, path);
  if (weight.block_n < 1 || weight.block_k < 1) {
    fail(ErrorCode::kBadFile, path, "weight {} is FP8 with scales but no block size is configured",
         quote(name));
  }
  check_count({SafeType::kU8, weight.codes}, weight.n * weight.k, "codes", name, path);
  check_count(weight.scales,
              ceil_div(weight.n, weight.block_n) * ceil_div(weight.k, weight.block_k), "scales",
              name, path);
}

void check_sizes(const IntWeight& w, const std::string& path) {
  if ((w.bits != 4 && w.bits != 8) || (w.packing == Int4Packing::kAwq && w.bits != 4)) {
    fail(ErrorCode::kUnsupported, path,
         "weight {} has {}-bit codes; 4 and 8 (awq: 4) are supported", quote(w.name), w.bits);
  }
  const std::int64_t per_word = 32 / w.bits;
  check_word_type(w.codes, w.name, path);
  check_scale_type(w.scales, w.name, path);
  const bool by_row = w.packing == Int4Packing::kRows;
  const std::int64_t packed = w.packing == Int4Packing::kGptq ? w.k : w.n;
  if (w.n < 1 || w.k < 1 || w.group < 1 || (!by_row && packed % per_word != 0) ||
      (!by_row && !w.zeros.empty() && w.n % per_word != 0)) {
    fail(ErrorCode::kBadFile, path,
         "weight {} of shape [{}, {}] in groups of {} cannot be packed {} to a word", quote(w.name),
         w.n, w.k, w.group, per_word);
  }
  const std::int64_t words = by_row ? w.n * ceil_div(w.k, per_word) : w.n * w.k / per_word;
  check_count(w.codes, words, "words of codes", w.name, path);
  check_count(w.scales, w.n * w.n_groups(), "scales", w.name, path);
  if (!w.zeros.empty()) {
    check_word_type(w.zeros, w.name, path);
    check_count(w.zeros, (by_row ? ceil_div(w.n, per_word) : w.n / per_word) * w.n_groups(),
                "words of zero points", w.name, path);
  }
  if (!w.group_of.empty()) {
    check_word_type(w.group_of, w.name, path);
    check_count(w.group_of, w.k, "group numbers", w.name, path);
  }
}

void check_sizes(const Mxfp4Weight& w, const std::string& name, const std::string& path) {
  if (w.k % 32 != 0) {
    fail(ErrorCode::kBadFile, path,
         "weight {} has rows of {} MXFP4 values, multiples of 32 are wanted", quote(name), w.k);
  }
  check_count({SafeType::kU8, w.codes}, w.n * w.k / 2, "bytes of codes", name, path);
  check_count({SafeType::kU8, w.scales}, w.n * w.k / 32, "scales", name, path);
}

bool is_scattered(const IntWeight& w, const std::string& path) {
  bool scattered = false;
  for (std::int64_t c = 0; c < (w.group_of.empty() ? 0 : w.k); ++c) {
    const std::int64_t group = w.group_of.word(c);
    if (group >= w.n_groups()) {
      fail(ErrorCode::kBadFile, path, "weight {} puts column {} in group {}, there are {}",
           quote(w.name), c, group, w.n_groups());
    }
    scattered = scattered || group != c / w.group;
  }
  return scattered;
}

void read_rows(const Fp8Weight& weight, std::int64_t row, std::int64_t n_rows, std::byte* out) {
  const std::int64_t scale_columns = ceil_div(weight.k, weight.block_k);
  const bool blocks = row_format(weight) == Format::kF8_E4M3_B128;
  for (std::int64_t r = row; r < row + n_rows; ++r) {
    const std::byte* codes = weight.codes.data() + static_cast<std::size_t>(r * weight.k);
    const std::int64_t scale_row = r / weight.block_n * scale_columns;
    if (blocks) {
      for (std::int64_t begin = 0; begin < weight.k; begin += 128) {
        formats::BlockF8_E4M3_B128 block;
        block.scale = weight.scales.number(scale_row + begin / weight.block_k);
        std::memcpy(block.q, codes + begin, sizeof(block.q));
        std::memcpy(out, &block, sizeof(block));
        out += sizeof(block);
      }
      continue;
    }
    for (std::int64_t c = 0; c < weight.k; ++c) {
      const float value = fp8_e4m3_to_f32(std::to_integer<std::uint8_t>(codes[c])) *
                          weight.scales.number(scale_row + c / weight.block_k);
      std::memcpy(out, &value, sizeof(value));
      out += sizeof(value);
    }
  }
}

void read_rows(const IntWeight& weight, std::int64_t row, std::int64_t n_rows, std::byte* out) {
  const Format format = row_format(weight);
  const std::size_t row_bytes = formats::row_bytes(format, weight.k);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(std::min(n_rows, kTileRows) * weight.k));
  for (std::int64_t begin = row; begin < row + n_rows; begin += kTileRows) {
    const std::int64_t count = std::min(kTileRows, row + n_rows - begin);
    unpack_codes(weight, begin, count, codes.data());
    for (std::int64_t r = 0; r < count; ++r) {
      const std::uint8_t* row_codes = codes.data() + r * weight.k;
      switch (format) {
        case Format::kI4_32: pack_int4_row<32>(weight, begin + r, row_codes, out); break;
        case Format::kI4_64: pack_int4_row<64>(weight, begin + r, row_codes, out); break;
        case Format::kI4_128: pack_int4_row<128>(weight, begin + r, row_codes, out); break;
        default: decode_int_row(weight, begin + r, row_codes, out); break;
      }
      out += row_bytes;
    }
  }
}

void read_rows(const Mxfp4Weight& weight, std::int64_t row, std::int64_t n_rows, std::byte* out) {
  const auto n_blocks = static_cast<std::size_t>(weight.k / 32);
  const std::size_t begin = static_cast<std::size_t>(row) * n_blocks;
  const std::size_t count = static_cast<std::size_t>(n_rows) * n_blocks;
  convert_mxfp4(weight.codes.subspan(begin * 16, count * 16), weight.scales.subspan(begin, count),
                out);
}

void convert_mxfp4(std::span<const std::byte> blocks, std::span<const std::byte> scales,
                   std::byte* out) {
  KT_CHECK(blocks.size() == scales.size() * 16);
  auto nibble = [&](std::size_t block, int value) {
    const auto byte =
        std::to_integer<unsigned>(blocks[block * 16 + static_cast<std::size_t>(value / 2)]);
    return value % 2 == 0 ? byte & 15u : byte >> 4;
  };
  for (std::size_t b = 0; b < scales.size(); ++b) {
    formats::BlockMXFP4 block;
    block.e = std::to_integer<std::uint8_t>(scales[b]);
    for (int j = 0; j < 16; ++j) {
      block.qs[j] = static_cast<std::uint8_t>(nibble(b, j) | nibble(b, j + 16) << 4);
    }
    std::memcpy(out + b * sizeof(block), &block, sizeof(block));
  }
}

}  // namespace kt::io
