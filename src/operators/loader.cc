#include "operators/loader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>

#include "base/half.h"
#include "operators/expert_cache.h"
#include "operators/placement.h"

namespace kt::operators {

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

bool Recode::changes(tensor::Format stored) const {
  return kind == Kind::kGroup || target(stored) != stored;
}

const std::byte* RowReader::rows(const io::TensorInfo& info, std::int64_t row,
                                 std::int64_t n_rows) {
  const std::byte* stored = nullptr;
  if (const auto view = source_->map(info)) {
    stored = view->row(row);
  } else {
    read_.resize(static_cast<std::size_t>(n_rows) *
                 formats::row_bytes(info.format, info.shape.n_cols()));
    source_->read_rows(info, row, n_rows, read_.data());
    stored = read_.data();
  }
  return recode_.changes(info.format) ? recoded(info, stored, n_rows) : stored;
}

const std::byte* RowReader::recoded(const io::TensorInfo& info, const std::byte* rows,
                                    std::int64_t n_rows) {
  const formats::FormatTraits& stored = formats::traits(info.format);
  const formats::FormatTraits& target = formats::traits(recode_.target(info.format));
  const std::int64_t n_cols = info.shape.n_cols();
  const std::size_t in = formats::row_bytes(stored.format, n_cols);
  const std::size_t out = formats::row_bytes(target.format, n_cols);
  decoded_.resize(static_cast<std::size_t>(n_cols));
  encoded_.resize(out * static_cast<std::size_t>(n_rows));
  for (std::size_t r = 0; r < static_cast<std::size_t>(n_rows); ++r) {
    stored.decode(rows + r * in, decoded_.data(), n_cols);
    std::byte* to = encoded_.data() + r * out;
    if (recode_.kind == Recode::Kind::kGroup) {
      encode_group(decoded_.data(), n_cols, recode_, to);
    } else {
      target.encode(decoded_.data(), nullptr, to, n_cols);
    }
  }
  return encoded_.data();
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

backend::Gpu& Loader::gpu(int index) {
  for (const auto& gpu : gpus_) {
    if (gpu->index() == index) return *gpu;
  }
  fail(ErrorCode::kUnsupported, gpu_name(index), "is not in use");
}

std::vector<std::unique_ptr<backend::Gpu::Aside>> Loader::asides() const {
  std::vector<std::unique_ptr<backend::Gpu::Aside>> asides;
  for (const auto& gpu : gpus_) asides.push_back(std::make_unique<backend::Gpu::Aside>(*gpu));
  return asides;
}

ExpertStream* Loader::expert_stream(int gpu) const {
  for (const auto& stream : streams_) {
    if (stream->gpu().index() == gpu) return stream.get();
  }
  return nullptr;
}

ExpertCache* Loader::expert_cache(int gpu) const {
  for (const auto& cache : caches_) {
    if (cache->gpu().index() == gpu) return cache.get();
  }
  return nullptr;
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
  backend::NodeBuffer storage;
  backend::PackedMatrix matrix = std::move(matrices({spec}, recode, storage).front());
  matrix.keep(std::move(storage));
  return matrix;
}

std::vector<backend::PackedMatrix> Loader::matrices(const std::vector<WeightSpec>& specs,
                                                    const Recode& recode,
                                                    backend::NodeBuffer& storage) {
  std::vector<backend::PackedMatrix> matrices;
  std::vector<Packing> packings;
  for (const WeightSpec& spec : specs) {
    const io::TensorInfo& info = require(spec);
    check_recode(source_, info, recode);
    packings.push_back({&info});
    try {
      matrices.emplace_back(cpu_, recode.target(info.format), info.shape.n_rows(),
                            info.shape.n_cols(), recode.scales());
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kUnsupported) throw;
      throw Error(e.code(), "tensor '" + info.stored_name + "': " + e.what(), source_.path());
    }
  }
  for (std::size_t i = 0; i < matrices.size(); ++i) packings[i].matrix = &matrices[i];
  place(packings, storage);
  pack(packings, recode);
  for (const Packing& p : packings) finished(*p.info);
  return matrices;
}

void Loader::place(std::span<const Packing> matrices, backend::NodeBuffer& storage) {
  const ThreadPool& pool = cpu_.pool;
  const auto rows_of = [&](int node, const Packing& p) {
    return pool.part(node, p.matrix->n(), backend::kRowGrain);
  };
  std::vector<std::size_t> bytes(static_cast<std::size_t>(pool.n_nodes()));
  for (int node = 0; node < pool.n_nodes(); ++node) {
    for (const Packing& p : matrices) {
      bytes[static_cast<std::size_t>(node)] += p.matrix->part_bytes(rows_of(node, p));
    }
  }
  storage = backend::NodeBuffer(cpu_.place, bytes, cpu_.binding_refused, small_);
  for (int node = 0; node < pool.n_nodes(); ++node) {
    std::byte* at = storage.part(static_cast<std::size_t>(node));
    for (const Packing& p : matrices) {
      const ThreadPool::Range rows = rows_of(node, p);
      if (rows.size() > 0) p.matrix->place_part(rows.begin, at);
      at += p.matrix->part_bytes(rows);
    }
  }
}

void Loader::pack(std::span<const Packing> matrices, const Recode& recode) {
  struct Part {
    std::size_t matrix;
    std::int64_t row, n_rows;
  };
  constexpr std::size_t kPartBytes = std::size_t{1} << 20;  // of the file, in whole tiles
  std::vector<std::vector<Part>> parts(static_cast<std::size_t>(cpu_.pool.n_nodes()));
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const io::TensorInfo& info = *matrices[i].info;
    const std::int64_t tile = matrices[i].matrix->tile_rows();
    const std::size_t tile_bytes =
        formats::row_bytes(info.format, info.shape.n_cols()) * static_cast<std::size_t>(tile);
    const std::int64_t step =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(kPartBytes / tile_bytes)) * tile;
    for (int node = 0; node < cpu_.pool.n_nodes(); ++node) {
      const auto rows = cpu_.pool.part(node, info.shape.n_rows(), backend::kRowGrain);
      for (std::int64_t row = rows.begin; row < rows.end; row += step) {
        parts[static_cast<std::size_t>(node)].push_back({i, row, std::min(step, rows.end - row)});
      }
    }
  }
  const auto n_workers = static_cast<std::size_t>(cpu_.pool.size());
  std::vector<RowReader> readers(n_workers, RowReader(source_, recode));
  std::exception_ptr failure;
  std::mutex mutex;
  const auto parts_of = [&](int node) -> const std::vector<Part>& {
    return parts[static_cast<std::size_t>(node)];
  };
  const auto count = [&](int node) { return static_cast<std::int64_t>(parts_of(node).size()); };
  cpu_.pool.run_nodes(count, [&](int node, std::int64_t task, int worker) {
    const Part& part = parts_of(node)[static_cast<std::size_t>(task)];
    const Packing& packing = matrices[part.matrix];
    try {
      RowReader& reader = readers[static_cast<std::size_t>(worker)];
      packing.matrix->pack_rows(part.row, part.n_rows,
                                reader.rows(*packing.info, part.row, part.n_rows));
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
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
