#include "operators/module.h"

#include <algorithm>
#include <exception>
#include <mutex>

namespace kt::operators {

const io::TensorInfo& Loader::require(const WeightSpec& spec) {
  const io::TensorInfo* info = source_.find(spec.name);
  if (info == nullptr) {
    fail(ErrorCode::kMismatch, source_.path(),
         "tensor '{}' {} is missing; the file is incomplete or of another architecture than '{}'",
         spec.name, spec.shape.to_string(), source_.config().architecture);
  }
  if (!(info->shape == spec.shape)) {
    fail(ErrorCode::kMismatch, source_.path(),
         "tensor '{}' has shape {}, but the configuration asks for {}; file and configuration do "
         "not "
         "belong together",
         info->stored_name, info->shape.to_string(), spec.shape.to_string());
  }
  used_.insert(spec.name);
  return *info;
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

backend::PackedMatrix Loader::matrix(const WeightSpec& spec) {
  const io::TensorInfo& info = require(spec);
  try {
    backend::PackedMatrix matrix(cpu_, info.format, info.shape.n_rows(), info.shape.n_cols());
    pack_into(info, matrix);
    return matrix;
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kUnsupported) throw;
    throw Error(e.code(), "tensor '" + info.stored_name + "': " + e.what(), source_.path());
  }
}

void Loader::pack_into(const io::TensorInfo& info, backend::PackedMatrix& matrix) {
  const std::size_t row_bytes = formats::row_bytes(info.format, info.shape.n_cols());
  // About 1 MiB of rows per task, in whole tiles.
  const std::int64_t tiles = std::max<std::int64_t>(
      1, (std::int64_t{1} << 20) / static_cast<std::int64_t>(row_bytes) / matrix.tile_rows());
  const std::int64_t rows_per_task = tiles * matrix.tile_rows();
  const std::int64_t n_tasks = (matrix.n() + rows_per_task - 1) / rows_per_task;
  const auto view = source_.map(info);
  std::vector<std::vector<std::byte>> staging(static_cast<std::size_t>(cpu_.pool.size()));
  if (!view) {
    for (auto& s : staging) s.resize(static_cast<std::size_t>(rows_per_task) * row_bytes);
  }
  std::exception_ptr failure;
  std::mutex mutex;
  cpu_.pool.run(n_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t row = task * rows_per_task;
    const std::int64_t n_rows = std::min(rows_per_task, matrix.n() - row);
    if (view) {
      matrix.pack_rows(row, n_rows, view->row(row));
      return;
    }
    std::byte* rows = staging[static_cast<std::size_t>(worker)].data();
    try {
      source_.read_rows(info, row, n_rows, rows);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
      return;
    }
    matrix.pack_rows(row, n_rows, rows);
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

void walk(Module& root, const std::function<void(Module&)>& visit) {
  visit(root);
  for (Module* child : root.children()) walk(*child, visit);
}

}  // namespace kt::operators
