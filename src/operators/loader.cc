#include "operators/loader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>

#include "base/half.h"

namespace kt::operators {
namespace {

// Rows of a tensor in the recoded format; buffers are kept between calls.
class RowRecoder {
 public:
  RowRecoder(const io::TensorInfo& info, const Recode& recode)
      : stored_(formats::traits(info.format)),
        target_(formats::traits(recode.target(info.format))),
        recode_(recode),
        n_cols_(info.shape.n_cols()) {}

  const std::byte* run(const std::byte* rows, std::int64_t n_rows) {
    const std::size_t in = formats::row_bytes(stored_.format, n_cols_);
    const std::size_t out = formats::row_bytes(target_.format, n_cols_);
    decoded_.resize(static_cast<std::size_t>(n_cols_));
    encoded_.resize(out * static_cast<std::size_t>(n_rows));
    for (std::size_t r = 0; r < static_cast<std::size_t>(n_rows); ++r) {
      stored_.decode(rows + r * in, decoded_.data(), n_cols_);
      std::byte* to = encoded_.data() + r * out;
      if (recode_.kind == Recode::Kind::kGroup) {
        encode_group(decoded_.data(), n_cols_, recode_, to);
      } else {
        target_.encode(decoded_.data(), nullptr, to, n_cols_);
      }
    }
    return encoded_.data();
  }

 private:
  const formats::FormatTraits& stored_;
  const formats::FormatTraits& target_;
  Recode recode_;
  std::int64_t n_cols_;
  std::vector<float> decoded_;
  std::vector<std::byte> encoded_;
};

}  // namespace

tensor::Format Recode::target(tensor::Format stored) const {
  const bool dense = formats::traits(stored).block_len == 1;
  switch (kind) {
    case Kind::kStored: return stored;
    case Kind::kDense: return dense ? stored : tensor::Format::kF32;
    case Kind::kBf16: return tensor::Format::kBF16;
    case Kind::kGroup: return bits == 8 ? tensor::Format::kQ8_0 : tensor::Format::kQ4_0;
  }
  return stored;
}

std::string Recode::describe() const {
  switch (kind) {
    case Kind::kStored: return {};
    case Kind::kDense: return "dense";
    case Kind::kBf16: return "BF16";
    case Kind::kGroup:
      return group < 0 ? fmt::format("{} bits, one scale per row", bits)
                       : fmt::format("{} bits, groups of {}", bits, group);
  }
  return {};
}

void encode_group(const float* x, std::int64_t n, const Recode& recode, std::byte* out) {
  constexpr std::int64_t kBlock = 32;
  const std::int64_t group = recode.group < 0 ? n : recode.group;
  const bool wide = recode.bits == 8;
  const std::size_t block_bytes = wide ? 34 : 18;
  for (std::int64_t begin = 0; begin < n; begin += group) {
    const std::int64_t end = std::min(begin + group, n);
    float largest = 0.0f;
    for (std::int64_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(x[i]));
    const std::uint16_t scale_bits = f32_to_fp16(largest / (wide ? 127.0f : 7.5f));
    const float scale = fp16_to_f32(scale_bits);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    const auto level = [&](std::int64_t i) {
      const float scaled = std::nearbyint(x[i] * inverse);
      if (!std::isfinite(scaled)) return 0;
      return static_cast<int>(std::clamp(scaled, wide ? -127.0f : -8.0f, wide ? 127.0f : 7.0f));
    };
    for (std::int64_t b = begin; b < end; b += kBlock, out += block_bytes) {
      std::memcpy(out, &scale_bits, sizeof scale_bits);
      for (std::int64_t i = 0; wide && i < kBlock; ++i)
        out[2 + i] = static_cast<std::byte>(level(b + i));
      for (std::int64_t i = 0; !wide && i < kBlock / 2; ++i) {
        out[2 + i] =
            static_cast<std::byte>((level(b + i) + 8) | (level(b + i + kBlock / 2) + 8) << 4);
      }
    }
  }
}

const io::TensorInfo& require_tensor(const io::WeightSource& source, const WeightSpec& spec) {
  const io::TensorInfo* info = source.find(spec.name);
  if (info == nullptr) {
    fail(ErrorCode::kMismatch, source.path(),
         "tensor '{}' {} is missing; the file is incomplete or of another architecture than '{}'",
         spec.name, spec.shape.to_string(), source.config().architecture);
  }
  if (!(info->shape == spec.shape)) {
    fail(ErrorCode::kMismatch, source.path(),
         "tensor '{}' has shape {}, but the configuration asks for {}; file and configuration do "
         "not "
         "belong together",
         info->stored_name, info->shape.to_string(), spec.shape.to_string());
  }
  return *info;
}

void check_recode(const io::WeightSource& source, const io::TensorInfo& info,
                  const Recode& recode) {
  if (recode.kind != Recode::Kind::kGroup) return;
  const std::int64_t n = info.shape.n_cols();
  const std::int64_t group = recode.group < 0 ? n : recode.group;
  if (n % 32 == 0 && group % 32 == 0) return;
  fail(ErrorCode::kUnsupported, source.path(),
       "tensor '{}' has rows of {} weights, which cannot be requantised in groups of {}: multiples "
       "of 32 can; use an operator that keeps the stored format",
       info.stored_name, n, group);
}

const io::TensorInfo& Loader::require(const WeightSpec& spec) {
  const io::TensorInfo& info = require_tensor(source_, spec);
  used_.insert(spec.name);
  return info;
}

std::vector<float> Loader::floats(const WeightSpec& spec) {
  const io::TensorInfo& info = require(spec);
  const std::int64_t n_rows = info.shape.n_rows();
  const std::int64_t n_cols = info.shape.n_cols();
  std::vector<float> values(static_cast<std::size_t>(n_rows * n_cols));
  std::vector<std::byte> row(formats::row_bytes(info.format, n_cols));
  for (std::int64_t r = 0; r < n_rows; ++r) {
    source_.read_rows(info, r, 1, row.data());
    formats::traits(info.format).decode(row.data(), values.data() + r * n_cols, n_cols);
  }
  finished(info);
  return values;
}

backend::PackedMatrix Loader::matrix(const WeightSpec& spec, const Recode& recode) {
  const io::TensorInfo& info = require(spec);
  check_recode(source_, info, recode);
  try {
    backend::PackedMatrix matrix(cpu_, recode.target(info.format), info.shape.n_rows(),
                                 info.shape.n_cols());
    pack_into(info, recode, matrix);
    return matrix;
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kUnsupported) throw;
    throw Error(e.code(), "tensor '" + info.stored_name + "': " + e.what(), source_.path());
  }
}

void Loader::pack_into(const io::TensorInfo& info, const Recode& recode,
                       backend::PackedMatrix& matrix) {
  const std::size_t row_bytes = formats::row_bytes(info.format, info.shape.n_cols());
  // About 1 MiB of rows per task, in whole tiles.
  const std::int64_t tiles = std::max<std::int64_t>(
      1, (std::int64_t{1} << 20) / static_cast<std::int64_t>(row_bytes) / matrix.tile_rows());
  const std::int64_t rows_per_task = tiles * matrix.tile_rows();
  const std::int64_t n_tasks = (matrix.n() + rows_per_task - 1) / rows_per_task;
  const auto view = source_.map(info);
  const bool stored =
      recode.target(info.format) == info.format && recode.kind != Recode::Kind::kGroup;
  const auto n_workers = static_cast<std::size_t>(cpu_.pool.size());
  std::vector<std::vector<std::byte>> staging(n_workers);
  std::vector<RowRecoder> recoders(n_workers, RowRecoder(info, recode));
  std::exception_ptr failure;
  std::mutex mutex;
  cpu_.pool.run(n_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t row = task * rows_per_task;
    const std::int64_t n_rows = std::min(rows_per_task, matrix.n() - row);
    try {
      const std::byte* rows = view ? view->row(row) : nullptr;
      if (rows == nullptr) {
        auto& buffer = staging[static_cast<std::size_t>(worker)];
        buffer.resize(static_cast<std::size_t>(rows_per_task) * row_bytes);
        source_.read_rows(info, row, n_rows, buffer.data());
        rows = buffer.data();
      }
      if (!stored) rows = recoders[static_cast<std::size_t>(worker)].run(rows, n_rows);
      matrix.pack_rows(row, n_rows, rows);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  finished(info);
}

void Loader::finished(const io::TensorInfo& info) {
  used_.insert(info.name);
  source_.drop(info);
  bytes_done_ += formats::row_bytes(info.format, info.shape.n_cols()) *
                 static_cast<std::size_t>(info.shape.n_rows());
  if (progress_) progress_(bytes_done_);
}

void Loader::check_all_used() const {
  std::string names;
  std::size_t n = 0;
  for (const io::TensorInfo& info : source_.tensors()) {
    if (used_.contains(info.name)) continue;
    if (++n <= 3) names += (names.empty() ? "'" : ", '") + info.stored_name + "'";
  }
  if (n == 0) return;
  fail(ErrorCode::kMismatch, source_.path(),
       "{} tensor{} of the file belong to no module of a '{}' model: {}{}", n, n == 1 ? "" : "s",
       source_.config().architecture, names, n > 3 ? ", …" : "");
}

}  // namespace kt::operators
