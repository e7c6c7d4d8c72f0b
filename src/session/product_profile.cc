#include "session/product_profile.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <span>

#include "base/least_seconds.h"
#include "base/noise.h"

namespace kt::session {
namespace {

using placement::KernelPoint;

constexpr std::int64_t kTile = 16;   // weight rows that are packed together
constexpr std::int64_t kPiece = 64;  // that a task reads, as tasks of experts do

backend::PackedMatrix random_matrix(const backend::Cpu& cpu, placement::WeightKind kind,
                                    std::int64_t k, std::uint64_t bytes) {
  const auto row_bytes = static_cast<std::int64_t>(formats::row_bytes(kind.format, k));
  const std::int64_t n =
      std::max(kPiece, static_cast<std::int64_t>(bytes) / row_bytes / kPiece * kPiece);
  backend::PackedMatrix matrix(cpu, kind.format, n, k, kind.scales);
  matrix.own(tensor::Buffer(matrix.bytes()));
  return matrix;
}

double pack(backend::Cpu& cpu, backend::PackedMatrix& matrix) {
  const std::size_t row_bytes = formats::row_bytes(matrix.format(), matrix.k());
  const std::vector<float> row = noise(matrix.k());
  std::vector<std::byte> rows(row_bytes * kTile);
  for (std::size_t r = 0; r < kTile; ++r) {
    formats::traits(matrix.format())
        .encode(row.data(), nullptr, rows.data() + r * row_bytes, matrix.k());
  }
  const double seconds = least_seconds(1, [&] {
    cpu.pool.run(matrix.n() / kTile, [&](std::int64_t tile, int) {
      matrix.pack_rows(tile * kTile, kTile, rows.data());
    });
  });
  return static_cast<double>(matrix.n()) * static_cast<double>(row_bytes) / seconds;
}

// One kernel, by the form of activations that it reads. Several tasks per thread, so that a
// delayed thread does not decide.
std::vector<KernelPoint> measure(backend::Cpu& cpu, const backend::PackedMatrix& matrix,
                                 kernels::dot::Act form, std::span<const std::int64_t> rows) {
  const bool tiles = kernels::dot::is_tiles(form);
  const std::int64_t per_task = tiles ? 128 : kPiece;
  const std::int64_t k = matrix.k();
  std::vector<KernelPoint> points;
  tensor::Arena arena;
  for (const std::int64_t m : rows) {
    arena.reset();
    // Enough weights to be cold when few rows read them; less when computing takes longer.
    const std::int64_t least = std::max<std::int64_t>(1024, 4 * per_task * cpu.pool.size());
    const std::int64_t part = m <= 4 ? matrix.n() : std::max(least, matrix.n() / m / kTile * kTile);
    const std::int64_t used = std::min(matrix.n(), part);
    const std::vector<float> x = noise(m * k);
    backend::Activation input(tensor::ConstMatrixF{x.data(), m, k, k});
    const auto act = input.rows_in(form, cpu, arena);
    const tensor::MatrixF out = arena.matrix(m, used);
    std::int64_t first = 0;  // slices of the buffer in turn, so that each is cold
    const double seconds = least_seconds(m <= 4 ? 5 : 11, [&] {
      const std::int64_t begin = first;
      cpu.pool.run((used + per_task - 1) / per_task, [&](std::int64_t task, int) {
        const std::int64_t at = task * per_task;
        matrix.dot(act, m, begin + at, std::min(per_task, used - at), out.data + at, used);
      });
      first = first + 2 * used <= matrix.n() ? first + used : 0;
    });
    points.push_back(
        {static_cast<double>(m), seconds / (static_cast<double>(used) * static_cast<double>(k))});
  }
  // More rows never take less time; a point above a later one was disturbed.
  for (std::size_t i = points.size() - 1; i > 0; --i)
    points[i - 1].seconds = std::min(points[i - 1].seconds, points[i].seconds);
  return points;
}

// One row times pieces of the weights, as they lie and in random order.
double measure_jump(backend::Cpu& cpu, const backend::PackedMatrix& matrix) {
  const std::int64_t n_pieces = matrix.n() / kPiece;
  std::vector<std::int64_t> order(static_cast<std::size_t>(n_pieces));
  std::iota(order.begin(), order.end(), 0);
  tensor::Arena arena;
  const std::vector<float> x = noise(matrix.k());
  backend::Activation input(tensor::ConstMatrixF{x.data(), 1, matrix.k(), matrix.k()});
  const auto act = input.rows_in(matrix.form(1), cpu, arena);
  const tensor::MatrixF out = arena.matrix(1, matrix.n());
  const auto measure_order = [&] {
    return least_seconds(5, [&] {
      cpu.pool.run(n_pieces, [&](std::int64_t task, int) {
        const std::int64_t at = order[static_cast<std::size_t>(task)] * kPiece;
        matrix.dot(act, 1, at, kPiece, out.data + at, matrix.n());
      });
    });
  };
  const double in_order = measure_order();
  std::minstd_rand random(1);
  std::shuffle(order.begin(), order.end(), random);
  const double more = std::max(0.0, measure_order() - in_order);
  return more * cpu.pool.size() / static_cast<double>(n_pieces);
}

}  // namespace

ProductProfile measure_products(backend::Cpu& cpu, placement::WeightKind kind, std::int64_t k,
                                std::uint64_t bytes) {
  backend::PackedMatrix matrix = random_matrix(cpu, kind, k, bytes);
  ProductProfile profile;
  profile.pack = pack(cpu, matrix);
  constexpr std::int64_t kFew[] = {1, 2, 4, 8, 16, 64, 128};
  profile.rates.few = measure(cpu, matrix, matrix.form(1), kFew);
  profile.rates.jump = measure_jump(cpu, matrix);
  profile.rates.batch_rows_each = matrix.batch_rows_each();
  if (profile.rates.batch_rows_each == 0) return profile;
  profile.rates.whole_tiles = backend::whole_tiles(*matrix.batch_kernel());
  profile.batch_kernel = matrix.batch_kernel()->name;
  // Experts get few rows of large steps.
  constexpr std::int64_t kBatch[] = {2, 16, 32, 64, 128, 512};
  profile.rates.batch = measure(cpu, matrix, matrix.batch_kernel()->act, kBatch);
  return profile;
}

}  // namespace kt::session
