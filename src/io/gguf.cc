#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>

#include "base/bytes.h"
#include "io/quote.h"

namespace kt::io {
namespace {

// Smallest possible encodings, to bound counts by the bytes that are there.
constexpr std::uint64_t kMinItemBytes = 8 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;
constexpr std::uint64_t kMaxNameBytes = 65535;
constexpr std::uint32_t kMaxSupportedVersion = 3;

std::size_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool: return 1;
    case GgufType::kU16:
    case GgufType::kI16: return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32: return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64: return 8;
    default: return 0;
  }
}

std::string_view read_string(ByteReader& in, std::string_view what) {
  const auto length = in.read<std::uint64_t>(what);
  const auto bytes = in.take(length, what);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

GgufType read_type(ByteReader& in, std::string_view key) {
  const auto type = in.read<std::uint32_t>("a metadata type");
  if (type > static_cast<std::uint32_t>(GgufType::kF64)) {
    fail(ErrorCode::kBadFile, in.name(),
         "metadata key {} has type number {}, 0 to 12 are defined; the file "
         "is damaged or of a newer format",
         quote(key), type);
  }
  return static_cast<GgufType>(type);
}

GgufArray read_array(ByteReader& in, std::string_view key) {
  GgufArray array;
  array.element = read_type(in, key);
  array.n = in.read<std::uint64_t>("an array length");
  if (array.element == GgufType::kArray) {
    fail(ErrorCode::kUnsupported, in.name(),
         "metadata key {} is an array of arrays, which nothing uses; "
         "remove the key or convert the model again",
         quote(key));
  }
  if (array.element != GgufType::kString) {
    const std::uint64_t size = scalar_bytes(array.element);
    if (array.n > in.remaining() / size) {
      fail(ErrorCode::kBadFile, in.name(),
           "metadata key {} claims {} elements of {} bytes, {} bytes are "
           "left; the file is truncated or damaged",
           quote(key), array.n, size, in.remaining());
    }
    array.bytes = in.take(array.n * size, "an array");
    return array;
  }
  if (array.n > in.remaining() / 8) {
    fail(ErrorCode::kBadFile, in.name(),
         "metadata key {} claims {} strings, {} bytes are left; the file is "
         "truncated or damaged",
         quote(key), array.n, in.remaining());
  }
  ByteReader start = in;
  const std::size_t begin = in.position();
  for (std::uint64_t i = 0; i < array.n; ++i) read_string(in, "an array of strings");
  array.bytes = start.take(in.position() - begin, "an array of strings");
  return array;
}

GgufValue read_value(ByteReader& in, std::string_view key) {
  constexpr std::string_view kWhat = "a metadata value";
  const GgufType type = read_type(in, key);
  auto unsigned_value = [&](auto v) { return GgufValue{type, static_cast<std::uint64_t>(v)}; };
  auto signed_value = [&](auto v) { return GgufValue{type, static_cast<std::int64_t>(v)}; };
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool: return unsigned_value(in.read<std::uint8_t>(kWhat));
    case GgufType::kU16: return unsigned_value(in.read<std::uint16_t>(kWhat));
    case GgufType::kU32: return unsigned_value(in.read<std::uint32_t>(kWhat));
    case GgufType::kU64: return unsigned_value(in.read<std::uint64_t>(kWhat));
    case GgufType::kI8: return signed_value(in.read<std::int8_t>(kWhat));
    case GgufType::kI16: return signed_value(in.read<std::int16_t>(kWhat));
    case GgufType::kI32: return signed_value(in.read<std::int32_t>(kWhat));
    case GgufType::kI64: return signed_value(in.read<std::int64_t>(kWhat));
    case GgufType::kF32: return {type, static_cast<double>(in.read<float>(kWhat))};
    case GgufType::kF64: return {type, in.read<double>(kWhat)};
    case GgufType::kString: return {type, read_string(in, kWhat)};
    case GgufType::kArray: return {type, read_array(in, key)};
  }
  return {};
}

struct Counts {
  std::uint64_t n_tensors = 0;
  std::uint64_t n_items = 0;
};

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF", little-endian

Counts read_preamble(ByteReader& in, std::uint32_t* version) {
  const auto magic = in.read<std::uint32_t>("the magic number");
  if (magic != kMagic) {
    fail(ErrorCode::kBadFile, in.name(),
         "does not start with \"GGUF\" but with bytes {:08x}; it is not a "
         "GGUF file",
         __builtin_bswap32(magic));
  }
  *version = in.read<std::uint32_t>("the version");
  if (__builtin_bswap32(*version) <= kMaxSupportedVersion) {
    fail(ErrorCode::kUnsupported, in.name(),
         "is a big-endian GGUF file; convert it to little-endian");
  }
  if (*version < 2 || *version > kMaxSupportedVersion) {
    fail(ErrorCode::kUnsupported, in.name(),
         "is GGUF version {}, versions 2 and 3 are supported; convert the "
         "model again",
         *version);
  }
  Counts counts;
  counts.n_tensors = in.read<std::uint64_t>("the tensor count");
  counts.n_items = in.read<std::uint64_t>("the metadata count");
  if (counts.n_items > in.remaining() / kMinItemBytes) {
    fail(ErrorCode::kBadFile, in.name(),
         "claims {} metadata items, {} bytes are left; the file is truncated "
         "or damaged",
         counts.n_items, in.remaining());
  }
  if (counts.n_tensors > in.remaining() / kMinTensorBytes) {
    fail(ErrorCode::kBadFile, in.name(),
         "claims {} tensors, {} bytes are left; the file is truncated or "
         "damaged",
         counts.n_tensors, in.remaining());
  }
  return counts;
}

/// Dimensions as in the file (fastest first), checked so that the tensor's byte size fits in 63
/// bits.
void read_shape(ByteReader& in, GgufTensor* tensor) {
  const auto n_dims = in.read<std::uint32_t>("a tensor's rank");
  if (n_dims < 1 || n_dims > tensor::Shape::kMaxRank) {
    fail(ErrorCode::kBadFile, in.name(),
         "tensor {} has {} dimensions, 1 to 4 are defined; the file is damaged",
         quote(tensor->name), n_dims);
  }
  std::uint64_t dims[tensor::Shape::kMaxRank];
  std::int64_t count = 1;
  for (std::uint32_t d = 0; d < n_dims; ++d) {
    dims[d] = in.read<std::uint64_t>("a tensor's dimensions");
    // 16 bytes a value is more than any format has, so that byte sizes cannot overflow either.
    if (dims[d] < 1 || dims[d] > static_cast<std::uint64_t>(INT64_MAX) ||
        !checked_multiply(count, static_cast<std::int64_t>(dims[d]), &count) ||
        count > INT64_MAX / 16) {
      fail(ErrorCode::kBadFile, in.name(),
           "tensor {} has an impossible dimension {}; the file is damaged", quote(tensor->name),
           dims[d]);
    }
  }
  for (std::uint32_t d = n_dims; d-- > 0;)
    tensor->shape.push_back(static_cast<std::int64_t>(dims[d]));
}

GgufTensor read_tensor_info(ByteReader& in) {
  GgufTensor tensor;
  tensor.name = read_string(in, "a tensor name");
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
    fail(ErrorCode::kBadFile, in.name(),
         "has a tensor name of {} bytes, 1 to {} are accepted; the file is "
         "damaged",
         tensor.name.size(), kMaxNameBytes);
  }
  read_shape(in, &tensor);
  const auto type = in.read<std::uint32_t>("a tensor's type");
  const auto format = formats::from_ggml_type(type);
  if (!format) {
    fail(ErrorCode::kUnsupported, in.name(),
         "tensor {} has ggml type number {}, which this build does not "
         "know; requantise the model to a current type",
         quote(tensor.name), type);
  }
  tensor.format = *format;
  const formats::FormatTraits& traits = formats::traits(*format);
  if (tensor.shape.n_cols() % traits.block_len != 0) {
    fail(ErrorCode::kBadFile, in.name(),
         "tensor {} is {} with rows of {} values, a multiple of {} is wanted; "
         "the file is damaged",
         quote(tensor.name), traits.name, tensor.shape.n_cols(), traits.block_len);
  }
  tensor.bytes = formats::row_bytes(*format, tensor.shape.n_cols()) *
                 static_cast<std::uint64_t>(tensor.shape.n_rows());
  tensor.offset = in.read<std::uint64_t>("a tensor's offset");
  return tensor;
}

void check_no_overlap(const std::vector<GgufTensor>& tensors, const std::string& path) {
  std::vector<const GgufTensor*> order;
  order.reserve(tensors.size());
  for (const GgufTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      fail(ErrorCode::kBadFile, path, "the data of tensors {} and {} overlap; the file is damaged",
           quote(order[i - 1]->name), quote(order[i]->name));
    }
  }
}

}  // namespace

bool is_gguf(std::span<const std::byte> bytes) {
  std::uint32_t magic = 0;
  if (bytes.size() < sizeof magic) return false;
  std::memcpy(&magic, bytes.data(), sizeof magic);
  return magic == kMagic;
}

GgufFile GgufFile::open(const std::string& path) {
  GgufFile file;
  file.path_ = path;
  file.file_ = MmapFile(path);
  file.bytes_ = file.file_.bytes();
  file.parse_header();
  return file;
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  GgufFile file;
  file.path_ = name;
  file.bytes_ = bytes;
  file.parse_header();
  return file;
}

void GgufFile::parse_header() {
  ByteReader in(bytes_, path_);
  const Counts counts = read_preamble(in, &version_);
  metadata_ = GgufMetadata(path_);
  for (std::uint64_t i = 0; i < counts.n_items; ++i) {
    const std::string_view key = read_string(in, "a metadata key");
    if (key.empty() || key.size() > kMaxNameBytes) {
      fail(ErrorCode::kBadFile, path_,
           "has a metadata key of {} bytes, 1 to {} are accepted; the file is "
           "damaged",
           key.size(), kMaxNameBytes);
    }
    if (!metadata_.add(key, read_value(in, key))) {
      fail(ErrorCode::kBadFile, path_, "has the metadata key {} twice; the file is damaged",
           quote(key));
    }
  }
  alignment_ = metadata_.get_u64("general.alignment", 32);
  constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 30;
  constexpr std::uint64_t kMinAlignment =
      8;  // of the format's definition; values are read in place
  if (!std::has_single_bit(alignment_) || alignment_ < kMinAlignment ||
      alignment_ > kMaxAlignment) {
    fail(ErrorCode::kBadFile, path_,
         "general.alignment is {}, a power of two from 8 to 2^30 is wanted; the file is damaged",
         alignment_);
  }
  std::unordered_map<std::string_view, bool> seen;
  for (std::uint64_t i = 0; i < counts.n_tensors; ++i) {
    tensors_.push_back(read_tensor_info(in));
    if (!seen.emplace(tensors_.back().name, true).second) {
      fail(ErrorCode::kBadFile, path_, "has the tensor {} twice; the file is damaged",
           quote(tensors_.back().name));
    }
  }
  const std::uint64_t data_begin = (in.position() + alignment_ - 1) / alignment_ * alignment_;
  for (GgufTensor& tensor : tensors_) {
    const std::uint64_t available = bytes_.size() > data_begin ? bytes_.size() - data_begin : 0;
    if (tensor.offset % alignment_ != 0) {
      fail(ErrorCode::kBadFile, path_,
           "tensor {} lies at offset {}, a multiple of {} is wanted; the file is "
           "damaged",
           quote(tensor.name), tensor.offset, alignment_);
    }
    if (tensor.offset > available || tensor.bytes > available - tensor.offset) {
      fail(ErrorCode::kBadFile, path_,
           "tensor {} needs bytes {} to {} of the data, which has {}; the file is "
           "truncated or damaged, get it again",
           quote(tensor.name), tensor.offset,
           static_cast<double>(tensor.offset) + static_cast<double>(tensor.bytes), available);
    }
    tensor.offset += data_begin;
  }
  check_no_overlap(tensors_, path_);
}

}  // namespace kt::io
