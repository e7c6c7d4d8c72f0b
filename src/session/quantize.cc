#include "session/quantize.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "io/gguf_export.h"
#include "io/gguf_source.h"
#include "io/gguf_writer.h"
#include "io/names.h"
#include "session/export_text.h"
#include "session/imatrix.h"

namespace kt::session {
namespace {

constexpr const char* kRopeFactors = "rope_freqs.weight";

// One tensor of the output: the canonical tensors it is made of (one, or one per expert).
struct OutTensor {
  std::string name;
  io::NameLayout layout = io::NameLayout::kSame;
  tensor::Format format{};
  tensor::Shape shape;                       // as stored
  std::vector<const io::TensorInfo*> parts;  // expert order
};

// Refuses what cannot be rearranged.
void check_shape(const io::WeightSource& source, const OutTensor& t, const tensor::Shape& part) {
  if (part.count() <= 0)
    fail(ErrorCode::kMismatch, source.path(), "tensor '{}' has no values", t.name);
  if (t.layout != io::NameLayout::kRopePairs) return;
  const std::int64_t n = part.rank() == 1 ? part.n_cols() : part.n_rows();
  const std::int64_t head_dim = source.config().head_dim;
  if (head_dim > 0 && head_dim % 2 == 0 && n % head_dim == 0) return;
  fail(ErrorCode::kMismatch, source.path(),
       "tensor '{}' has shape {}, but the heads of the configuration have {} rows",
       t.parts.front()->stored_name, part.to_string(), head_dim);
}

std::vector<OutTensor> list_output(const io::WeightSource& source) {
  std::vector<OutTensor> out;
  std::map<std::string, std::size_t> index;
  for (const io::TensorInfo& info : source.tensors()) {
    const auto stored = io::gguf_name(source.config(), info.name);
    if (!stored) {
      fail(ErrorCode::kUnsupported, source.path(), "tensor '{}' has no name in GGUF",
           info.stored_name);
    }
    const auto [it, fresh] = index.emplace(stored->name, out.size());
    if (fresh) out.push_back({stored->name, stored->layout, {}, {}, {}});
    OutTensor& t = out[it->second];
    if (stored->expert >= std::max<std::int64_t>(1, source.config().moe.n_experts)) {
      fail(ErrorCode::kMismatch, source.path(),
           "tensor '{}' is of an expert beyond the configuration's {}", info.stored_name,
           source.config().moe.n_experts);
    }
    const auto slot = static_cast<std::size_t>(std::max<std::int64_t>(0, stored->expert));
    if (t.parts.size() <= slot) t.parts.resize(slot + 1, nullptr);
    t.parts[slot] = &info;
  }
  for (OutTensor& t : out) {
    for (const io::TensorInfo* part : t.parts) {
      if (part != nullptr && part->shape == t.parts.front()->shape) continue;
      fail(ErrorCode::kMismatch, source.path(),
           "the experts of '{}' are incomplete or differ in shape", t.name);
    }
    const tensor::Shape& part = t.parts.front()->shape;
    check_shape(source, t, part);
    if (t.layout == io::NameLayout::kStacked)
      t.shape.push_back(static_cast<std::int64_t>(t.parts.size()));
    for (int i = t.layout == io::NameLayout::kRowVector ? 1 : 0; i < part.rank(); ++i) {
      t.shape.push_back(part[i]);
    }
  }
  return out;
}

/// Formats and order; refuses roundings that need an importance matrix and have none.
std::vector<OutTensor> plan_types(const io::WeightSource& source, const FileType& type,
                                  const ImportanceMatrix& imatrix) {
  std::vector<OutTensor> out = list_output(source);
  std::vector<StoredTensor> stored;
  for (const OutTensor& t : out) stored.push_back({t.name, t.shape});
  const std::vector<formats::Format> chosen =
      tensor_formats(type, source.config(), stored, !imatrix.empty());
  for (std::size_t i = 0; i < out.size(); ++i) {
    OutTensor& t = out[i];
    t.format = chosen[i];
    if (!requires_importance(type, t.name, t.format)) continue;
    const bool stacked = t.layout == io::NameLayout::kStacked;
    for (std::size_t e = 0; e < t.parts.size(); ++e) {
      if (t.parts[e]->format == t.format) continue;  // copied
      const std::int64_t expert = stacked ? static_cast<std::int64_t>(e) : -1;
      if (imatrix.find(t.name, expert, t.shape.n_cols()) != nullptr) continue;
      fail(ErrorCode::kUsage, "--type",
           "{} rounds '{}' to {}, which is garbage without the importance of its columns; {}",
           type.name, t.name, formats::traits(t.format).name,
           imatrix.empty() ? "give --imatrix FILE or a type of more bits (IQ3_S, Q2_K)"
                           : "the importance matrix has none for it");
    }
  }
  return out;
}

class Writer {
 public:
  Writer(const io::WeightSource& source, io::GgufWriter& out, ThreadPool& pool,
         const ImportanceMatrix& imatrix)
      : source_(source), out_(out), pool_(pool), imatrix_(imatrix) {}

  void write(const OutTensor& t) {
    const bool stacked = t.layout == io::NameLayout::kStacked;
    for (std::size_t e = 0; e < t.parts.size(); ++e) {
      write_part(t, *t.parts[e], stacked ? static_cast<std::int64_t>(e) : -1);
    }
  }

 private:
  void write_part(const OutTensor& t, const io::TensorInfo& info, std::int64_t expert) {
    const std::int64_t n_rows = info.shape.n_rows();
    const std::int64_t n_cols = info.shape.n_cols();
    const std::size_t row_bytes = formats::row_bytes(t.format, n_cols);
    const auto batch = std::clamp<std::int64_t>((std::int64_t{16} << 20) / (n_cols * 4), 1, n_rows);
    const float* importance = imatrix_.find(t.name, expert, n_cols);
    std::vector<std::byte> encoded(row_bytes * static_cast<std::size_t>(batch));
    for (std::int64_t first = 0; first < n_rows; first += batch) {
      const std::int64_t n = std::min(batch, n_rows - first);
      std::exception_ptr failure;
      std::mutex mutex;
      pool_.run(n, [&](std::int64_t i, int) {
        try {
          encode_row(t, info, first + i, importance,
                     encoded.data() + static_cast<std::size_t>(i) * row_bytes);
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
        }
      });
      if (failure) std::rethrow_exception(failure);
      out_.append({encoded.data(), row_bytes * static_cast<std::size_t>(n)});
    }
    source_.drop(info);
  }

  void encode_row(const OutTensor& t, const io::TensorInfo& info, std::int64_t stored_row,
                  const float* importance, std::byte* out) const {
    const std::int64_t n_cols = info.shape.n_cols();
    const bool pairs = t.layout == io::NameLayout::kRopePairs;
    const bool vector = info.shape.rank() == 1;
    const std::int64_t head_dim = source_.config().head_dim;
    const std::int64_t row = pairs && !vector ? io::unpaired_row(stored_row, head_dim) : stored_row;
    std::vector<std::byte> raw(formats::row_bytes(info.format, n_cols));
    source_.read_rows(info, row, 1, raw.data());
    if (info.format == t.format && !(pairs && vector)) {
      std::copy(raw.begin(), raw.end(), out);
      return;
    }
    std::vector<float> values(static_cast<std::size_t>(n_cols));
    formats::traits(info.format).decode(raw.data(), values.data(), n_cols);
    if (pairs && vector) {  // a bias: its values move as the rows of its matrix do
      const std::vector<float> canonical = values;
      for (std::int64_t i = 0; i < n_cols; ++i) {
        values[static_cast<std::size_t>(i)] =
            canonical[static_cast<std::size_t>(io::unpaired_row(i, head_dim))];
      }
    }
    formats::traits(t.format).encode(values.data(), importance, out, n_cols);
  }

  const io::WeightSource& source_;
  io::GgufWriter& out_;
  ThreadPool& pool_;
  const ImportanceMatrix& imatrix_;
};

void export_header(const io::WeightSource& source, const QuantizeOptions& options,
                   const std::vector<OutTensor>& tensors, io::GgufWriter& writer) {
  if (const auto* gguf = dynamic_cast<const io::GgufSource*>(&source)) {
    const io::GgufMetadata& metadata = gguf->gguf().metadata();
    io::HeaderChanges changes;
    changes.file_type = options.copy
                            ? static_cast<std::uint32_t>(metadata.get_u64("general.file_type", 0))
                            : file_type(options.type).llama_ftype;
    changes.name = options.name;
    changes.joint_kv_b = std::any_of(tensors.begin(), tensors.end(), [](const OutTensor& t) {
      return t.name.ends_with(".attn_kv_b.weight");
    });
    io::copy_metadata(metadata, changes, writer);
    return;
  }
  io::ModelConfig config = source.config();
  if (!options.name.empty()) config.name = options.name;
  io::export_config(config, file_type(options.type).llama_ftype, writer);
  export_text(source, writer);
}

/// Every tensor in the format it has.
std::vector<OutTensor> plan_copy(const io::WeightSource& source) {
  if (dynamic_cast<const io::GgufSource*>(&source) == nullptr)
    fail(ErrorCode::kUsage, "--copy", "'{}' is no GGUF file; give --type instead", source.path());
  std::vector<OutTensor> out = list_output(source);
  for (OutTensor& t : out) t.format = t.parts.front()->format;
  return out;
}

void refuse_overwriting(const std::string& input, const std::string& output) {
  std::error_code ignored;
  if (std::filesystem::equivalent(input, output, ignored)) {
    fail(ErrorCode::kUsage, output, "the output is the input file; name another file");
  }
}

std::vector<OutTensor> plan_output(const io::WeightSource& source, const QuantizeOptions& options,
                                   const ImportanceMatrix& imatrix) {
  if (options.copy) return plan_copy(source);
  return plan_types(source, file_type(options.type), imatrix);
}

ImportanceMatrix open_imatrix(const QuantizeOptions& options) {
  return options.imatrix.empty() ? ImportanceMatrix() : ImportanceMatrix::open(options.imatrix);
}

}  // namespace

std::vector<PlannedTensor> plan_quantize(const io::WeightSource& source,
                                         const QuantizeOptions& options) {
  std::vector<PlannedTensor> plan;
  for (const OutTensor& t : plan_output(source, options, open_imatrix(options))) {
    plan.push_back({t.name, t.format, t.shape});
  }
  const auto n_factors = static_cast<std::int64_t>(io::export_rope_factors(source.config()).size());
  if (n_factors > 0) plan.push_back({kRopeFactors, tensor::Format::kF32, {n_factors}});
  return plan;
}

QuantizeReport quantize(const io::WeightSource& source, const QuantizeOptions& options,
                        ThreadPool& pool) {
  refuse_overwriting(source.path(), options.output);
  const ImportanceMatrix imatrix = open_imatrix(options);
  const std::vector<OutTensor> tensors = plan_output(source, options, imatrix);
  io::GgufWriter writer(options.output);
  export_header(source, options, tensors, writer);
  // Sources do not list this tensor among their weights.
  const std::vector<float> rope_factors = io::export_rope_factors(source.config());
  QuantizeReport report;
  for (const OutTensor& t : tensors) {
    writer.add_tensor(t.name, t.format, t.shape);
    report.n_weights += t.shape.count();
  }
  if (!rope_factors.empty()) {
    writer.add_tensor(kRopeFactors, tensor::Format::kF32,
                      {static_cast<std::int64_t>(rope_factors.size())});
  }
  report.n_tensors = static_cast<std::int64_t>(tensors.size());
  report.bytes = writer.data_bytes();
  writer.begin_data();
  Writer rows(source, writer, pool, imatrix);
  std::uint64_t done = 0;
  for (const OutTensor& t : tensors) {
    if (options.on_progress) options.on_progress(t.name, done, report.bytes);
    rows.write(t);
    done +=
        formats::row_bytes(t.format, t.shape.n_cols()) * static_cast<std::size_t>(t.shape.n_rows());
  }
  if (!rope_factors.empty()) writer.append(std::as_bytes(std::span(rope_factors)));
  writer.finish();
  if (options.on_progress) options.on_progress("", report.bytes, report.bytes);
  return report;
}

}  // namespace kt::session
