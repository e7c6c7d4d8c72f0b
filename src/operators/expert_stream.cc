#include "operators/expert_stream.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/bytes.h"
#include "operators/gpu_weights.h"
#include "operators/row_ops.h"

namespace kt::operators {
namespace {

using backend::CopyKind;
using kernels::cuda::MoeArgs;
using kernels::cuda::Status;

constexpr std::size_t kHalfBytes = std::size_t{32} << 20;  // of the pinned buffer

// Temporaries of one row of one expert: the row, what it becomes, and what the product needs.
std::int64_t pair_bytes(std::int64_t d_ff, std::int64_t d_model) {
  return 2 * d_model + 4 * d_model + (2 * d_ff + 4 * d_model + 16);
}

// `count` experts as they are packed for the CPU, part by part → tiles, one after the other.
Status pack_experts(const backend::GpuApi& api, const ExpertSource& e, const std::byte* packed,
                    std::int64_t count, const ExpertStream::Tiles& tiles,
                    kernels::cuda::Stream stream) {
  for (std::size_t p = 0; p < 3; ++p) {
    const ExpertSource::Matrix& m = e.matrices[p];
    const std::size_t each = api.packed_bytes(m.format, m.n, m.k);
    const std::byte* from = packed;
    for (const ExpertSource::Part& part : e.parts) {
      const ExpertSource::Part::Rows& rows = part.rows[p];
      kernels::cuda::PackN16Args pack{
          m.format, from + rows.offset, part.expert_bytes, rows.n_rows, m.k, tiles[p], each, count};
      if (rows.begin > 0) pack.to = tiles[p] + api.packed_bytes(m.format, rows.begin, m.k);
      if (rows.n_rows > 0) {
        const Status status = api.pack_n16(pack, stream);
        if (status != Status::kOk) return status;
      }
      from += static_cast<std::size_t>(count) * part.expert_bytes;
    }
  }
  return Status::kOk;
}

// Moved as rows of four-byte values.
template <class T>
const T* send(GpuStep& gpu, std::vector<T>& values) {
  static_assert(sizeof(T) == sizeof(float));
  constexpr std::size_t kColumns = 1024;
  values.resize((values.size() + kColumns - 1) / kColumns * kColumns);
  void* to = gpu.allocate(values.size() * sizeof(T));
  const auto n_rows = static_cast<std::int64_t>(values.size() / kColumns);
  gpu.upload({reinterpret_cast<const float*>(values.data()), n_rows, kColumns, kColumns}, to,
             GpuType::kF32);
  return static_cast<const T*>(to);
}

}  // namespace

std::int64_t pairs_at_once(std::int64_t d_ff, std::int64_t d_model, std::int64_t n) {
  constexpr std::int64_t kBytes = std::int64_t{512} << 20;
  return std::clamp<std::int64_t>(kBytes / pair_bytes(d_ff, d_model), 1, n);
}

StreamSizes stream_sizes(std::size_t expert_bytes, std::size_t gpu_bytes) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  constexpr std::size_t kPart = 85;  // of the GPU
  const std::size_t wanted = std::clamp(gpu_bytes / kPart / kMiB * kMiB, 64 * kMiB, 384 * kMiB);
  const std::size_t slot = std::max(wanted, (expert_bytes + kMiB - 1) / kMiB * kMiB);
  return {slot, slot + slot / 8};  // tiles may be filled up to their size
}

std::size_t stream_step_bytes(const io::MoeConfig& moe, std::int64_t d_model, std::int64_t n_rows) {
  const std::int64_t n = n_rows * moe.n_active;
  constexpr std::int64_t kLists = 5 * 4;  // bytes of each pair in PairLists
  return static_cast<std::size_t>(pairs_at_once(moe.d_ff, d_model, n) *
                                      pair_bytes(moe.d_ff, d_model) +
                                  n * kLists + n_rows * 4 * d_model);
}

bool can_stream(tensor::Format gate, tensor::Format up, tensor::Format down) {
  return gate == up && gpu_has_experts(gate) && gpu_has_experts(down);
}

std::size_t ExpertSource::expert_bytes() const {
  std::size_t bytes = 0;
  for (const Part& part : parts) bytes += part.expert_bytes;
  return bytes;
}

ExpertStream::ExpertStream(backend::Gpu& gpu, StreamSizes sizes, StreamExperts mode)
    : gpu_(gpu), sizes_(sizes), mode_(mode) {
  gpu_.use();
  kernels::cuda::Stream stream = nullptr;
  gpu_.check(gpu_.api().stream_create(&stream), "stream_create");
  copies_ = backend::GpuStream(gpu_.api(), stream);
  if (!streams()) return;
  for (int i = 0; i < StreamSizes::kSlots; ++i)
    slots_.push_back({gpu_.allocate_bytes(sizes.slot), gpu_.event(false), gpu_.event(false)});
  tiles_ = gpu_.allocate_bytes(sizes.tiles);
}

// Host memory must not go away under a copy.
ExpertStream::~ExpertStream() {
  if (gpu_.api().use_device(gpu_.index()) == Status::kOk)
    gpu_.api().stream_synchronize(copies_.get());
}

ExpertStream::Layer ExpertStream::add(ExpertSource experts) {
  auto source = std::make_unique<Source>();
  source->experts = std::move(experts);
  if (streams()) choose_chunk(*source);
  pin(*source);
  sources_.push_back(std::move(source));
  return &sources_.back()->experts;
}

void ExpertStream::choose_chunk(Source& source) const {
  const ExpertSource& e = source.experts;
  std::size_t tiles = 0;
  for (const ExpertSource::Matrix& m : e.matrices) tiles += tile_bytes(m);
  const std::size_t fit = std::min(sizes_.slot / e.expert_bytes(), sizes_.tiles / tiles);
  if (fit == 0) {
    fail(ErrorCode::kNoMemory, e.path, "an expert of {} does not fit the {} that stream experts",
         human_bytes(e.expert_bytes()), human_bytes(sizes_.slot));
  }
  const std::int64_t n_chunks =
      (e.n_experts + static_cast<std::int64_t>(fit) - 1) / static_cast<std::int64_t>(fit);
  source.per_chunk = (e.n_experts + n_chunks - 1) / n_chunks;
}

void ExpertStream::pin(Source& source) {
  gpu_.use();
  const auto start = std::chrono::steady_clock::now();
  for (const std::span<const std::byte> span : source.experts.memory) {
    auto* data = const_cast<std::byte*>(span.data());
    const Status status = gpu_.api().host_register(data, span.size());
    if (status != Status::kOk) {
      refusal_ = gpu_.describe(status, "host_register");
      source.registered.clear();
      break;
    }
    source.registered.emplace_back(gpu_.api(), data);
  }
  pin_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  source.pinned = !source.registered.empty();
  for (const std::span<const std::byte> span : source.experts.memory)
    (source.pinned ? pinned_bytes_ : unpinned_bytes_) += span.size();
  if (source.pinned || !streams() || staging_.get() != nullptr) return;
  staging_ = gpu_.pinned(2 * kHalfBytes);
  for (backend::GpuEvent& event : staged_) event = gpu_.event(false);
}

void ExpertStream::remove(Layer layer) {
  if (gpu_.api().use_device(gpu_.index()) == Status::kOk)
    gpu_.api().stream_synchronize(copies_.get());
  filled_.clear();
  std::erase_if(sources_, [&](const auto& source) { return &source->experts == layer; });
}

ExpertStream::Layer ExpertStream::find(std::string_view path) const {
  const auto it = std::find_if(sources_.begin(), sources_.end(),
                               [&](const auto& s) { return s->experts.path == path; });
  return it == sources_.end() ? nullptr : &(*it)->experts;
}

Status ExpertStream::bring(Layer layer, std::int32_t expert, std::byte* staging,
                           const Tiles& to) const noexcept {
  std::byte* at = staging;
  for (const ExpertSource::Part& part : layer->parts) {
    const std::byte* from = part.data + static_cast<std::size_t>(expert) * part.expert_bytes;
    const Status status =
        gpu_.api().copy(at, from, part.expert_bytes, CopyKind::kToDevice, copies_.get());
    if (status != Status::kOk) return status;
    at += part.expert_bytes;
  }
  return pack_experts(gpu_.api(), *layer, staging, 1, to, copies_.get());
}

void ExpertStream::set_held(Layer layer, const HotExperts* held) {
  for (const auto& source : sources_) {
    if (&source->experts == layer) source->held = held;
  }
}

ExpertStream::Division ExpertStream::divide(Layer layer, const Routing& routing,
                                            std::int64_t n_rows) const {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(layer->n_experts));
  for (std::int64_t i = 0; i < n_rows * routing.n_active; ++i) {
    if (routing.ids[i] >= 0) ++rows[static_cast<std::size_t>(routing.ids[i])];
  }
  std::vector<ExpertLoad> loads;
  for (std::size_t e = 0; e < rows.size(); ++e) {
    if (rows[e] > 0) loads.push_back({static_cast<std::int32_t>(e), rows[e], is_sent(layer, e)});
  }
  Division d;
  d.on_gpu.resize(rows.size());
  if (mode_ == StreamExperts::kOn) {
    for (const ExpertLoad& load : loads) d.streamed.push_back(load.expert);
  } else {
    d.streamed = streamed_experts(rates_, loads, layer->expert_bytes(), n_rows);
  }
  for (const std::int32_t e : d.streamed) d.on_gpu[static_cast<std::size_t>(e)] = true;
  for (const ExpertLoad& load : loads) {
    if (d.is_streamed(load.expert)) {
      d.n_streamed_rows += load.rows;
    } else {
      ++d.n_here;
      d.n_here_rows += load.rows;
    }
  }
  return d;
}

bool ExpertStream::is_sent(Layer layer, std::size_t expert) const {
  return std::any_of(filled_.begin(), filled_.end(), [&](const Chunk& chunk) {
    return &chunk.source->experts == layer &&
           std::binary_search(chunk.experts.begin(), chunk.experts.end(),
                              static_cast<std::int32_t>(expert));
  });
}

void ExpertStream::forget_ahead(Step& step) noexcept {
  filled_.clear();
  step.gpu(gpu_.index()).run("waiting for experts", [&](auto& k, auto) {
    return k.stream_synchronize(copies_.get());
  });
}

double ExpertStream::link_rate(Step& step, Layer layer) noexcept {
  const Source& source = source_of(layer);
  std::vector<std::int32_t> first(static_cast<std::size_t>(source.per_chunk));
  std::iota(first.begin(), first.end(), 0);
  double least = 0.0;
  for (int run = 0; run < 6; ++run) {
    forget_ahead(step);
    const auto start = std::chrono::steady_clock::now();
    fill(step, {&source, first, 0});
    forget_ahead(step);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    least = run == 0 ? seconds.count() : std::min(least, seconds.count());
  }
  return static_cast<double>(first.size() * layer->expert_bytes()) / std::max(least, 1e-9);
}

const ExpertStream::Source& ExpertStream::source_of(Layer layer) const {
  return **std::find_if(sources_.begin(), sources_.end(),
                        [&](const auto& s) { return &s->experts == layer; });
}

std::vector<ExpertStream::Chunk> ExpertStream::chunks_of(const Source& source,
                                                         std::span<const std::int32_t> experts) {
  std::vector<Chunk> chunks;
  for (std::size_t i = 0; i < experts.size(); i += static_cast<std::size_t>(source.per_chunk)) {
    const auto part = experts.subspan(
        i, std::min(experts.size() - i, static_cast<std::size_t>(source.per_chunk)));
    chunks.push_back({&source, {part.begin(), part.end()}, 0});
  }
  return chunks;
}

void ExpertStream::fill(Step& step, Chunk chunk) noexcept {
  GpuStep& gpu = step.gpu(gpu_.index());
  const Source& source = *chunk.source;
  chunk.slot = next_slot_;
  next_slot_ = (next_slot_ + 1) % slots_.size();
  Slot& slot = slots_[chunk.slot];
  const char* who = source.experts.path.c_str();
  gpu.run(who, [&](auto& k, auto) { return k.stream_wait_event(copies_.get(), slot.read.get()); });
  std::byte* to = slot.data;
  const std::vector<std::int32_t>& ids = chunk.experts;
  for (const ExpertSource::Part& part : source.experts.parts) {
    for (std::size_t i = 0, n = 0; i < ids.size(); i += n) {
      for (n = 1; i + n < ids.size() && ids[i + n] == ids[i] + static_cast<std::int32_t>(n);) ++n;
      copy(step, source, to, part.data + static_cast<std::size_t>(ids[i]) * part.expert_bytes,
           n * part.expert_bytes);
      to += n * part.expert_bytes;
    }
  }
  gpu.run(who, [&](auto& k, auto) { return k.event_record(slot.filled.get(), copies_.get()); });
  filled_.push_back(std::move(chunk));
}

void ExpertStream::copy(Step& step, const Source& source, std::byte* to, const std::byte* from,
                        std::size_t bytes) noexcept {
  GpuStep& gpu = step.gpu(gpu_.index());
  const char* who = source.experts.path.c_str();
  const auto send = [&](std::byte* at, const void* data, std::size_t n) {
    gpu.run(who,
            [&](auto& k, auto) { return k.copy(at, data, n, CopyKind::kToDevice, copies_.get()); });
  };
  if (source.pinned) return send(to, from, bytes);
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t n = std::min(bytes - done, kHalfBytes);
    std::byte* half = static_cast<std::byte*>(staging_.get()) + half_ * kHalfBytes;
    backend::GpuEvent& staged = staged_[half_];
    half_ ^= 1;
    gpu.run(who, [&](auto& k, auto) { return k.event_synchronize(staged.get()); });
    step.cpu.pool.run(static_cast<std::int64_t>((n + kPiece - 1) / kPiece),
                      [&](std::int64_t i, int) {
                        const std::size_t at = static_cast<std::size_t>(i) * kPiece;
                        std::memcpy(half + at, from + done + at, std::min(kPiece, n - at));
                      });
    send(to + done, half, n);
    gpu.run(who, [&](auto& k, auto) { return k.event_record(staged.get(), copies_.get()); });
    done += n;
  }
}

// Tiles of the chunk's experts, from its slot.
void ExpertStream::pack(GpuStep& gpu, const Chunk& chunk, const Tiles& to) noexcept {
  const ExpertSource& e = chunk.source->experts;
  const Slot& slot = slots_[chunk.slot];
  const char* who = e.path.c_str();
  const auto count = static_cast<std::int64_t>(chunk.experts.size());
  gpu.run(who, [&](auto& k, auto s) { return k.stream_wait_event(s, slot.filled.get()); });
  gpu.run(who, [&](auto& k, auto s) { return pack_experts(k, e, slot.data, count, to, s); });
  gpu.run(who, [&](auto& k, auto s) { return k.event_record(slot.read.get(), s); });
}

void ExpertStream::relay(Step& step, Layer layer, const Tiles& to) noexcept {
  const Source& source = source_of(layer);
  GpuStep& gpu = step.gpu(gpu_.index());
  filled_.clear();
  std::vector<std::int32_t> all(static_cast<std::size_t>(layer->n_experts));
  std::iota(all.begin(), all.end(), 0);
  for (Chunk& chunk : chunks_of(source, all)) {
    const auto first = static_cast<std::size_t>(chunk.experts.front());
    fill(step, std::move(chunk));
    Tiles at = to;
    for (std::size_t p = 0; p < 3; ++p) at[p] += first * tile_bytes(layer->matrices[p]);
    pack(gpu, filled_.front(), at);
    filled_.pop_front();
  }
}

void ExpertStream::compute(GpuStep& gpu, const Chunk& chunk, MoeArgs args, const Pairs& pairs,
                           std::span<const PairLists::Piece> pieces) noexcept {
  if (pieces.empty()) return;  // sent ahead for nothing
  const ExpertSource& e = chunk.source->experts;
  const char* who = e.path.c_str();
  Tiles tiles = {tiles_, nullptr, nullptr};
  for (std::size_t p = 1; p < 3; ++p)
    tiles[p] = tiles[p - 1] + chunk.experts.size() * tile_bytes(e.matrices[p - 1]);
  pack(gpu, chunk, tiles);
  args.gate = {e.matrices[0].format, tiles[0]};
  args.up = {e.matrices[1].format, tiles[1]};
  args.down = {e.matrices[2].format, tiles[2]};
  args.n_experts = static_cast<std::int64_t>(chunk.experts.size());
  for (const PairLists::Piece& piece : pieces) {
    const kernels::cuda::RowsArgs gather{pairs.x,     GpuType::kBF16, pairs.x_rows + piece.begin,
                                         pairs.rows,  GpuType::kBF16, piece.n,
                                         args.d_model};
    gpu.run(who, [&](auto& k, auto s) { return k.gather_rows(gather, s); });
    args.m = piece.n;
    args.ids = pairs.ids + piece.begin;
    args.weights = pairs.weights + piece.begin;
    gpu.run(who, [&](auto& k, auto s) { return k.moe(args, s); });
    const kernels::cuda::ScatterAddArgs add{pairs.results,
                                            pairs.to_rows + piece.to_begin,
                                            pairs.begins + piece.begins_begin,
                                            pairs.sums,
                                            piece.n_to,
                                            args.d_model};
    gpu.run(who, [&](auto& k, auto s) { return k.scatter_add(add, s); });
  }
}

void ExpertStream::run(Step& step, Layer layer, std::span<const std::int32_t> experts,
                       Activation& x, const Routing& routing, Activation& result) noexcept {
  const Source& source = source_of(layer);
  const auto n_experts = static_cast<std::size_t>(layer->n_experts);
  GpuStep& gpu = step.gpu(gpu_.index());

  // What was sent ahead for another layer is forgotten.
  if (!filled_.empty() && filled_.front().source != &source) filled_.clear();
  std::vector<bool> here(n_experts, false);
  for (const Chunk& chunk : filled_) {
    for (const std::int32_t e : chunk.experts) here[static_cast<std::size_t>(e)] = true;
  }
  std::vector<std::int32_t> missing;
  std::copy_if(experts.begin(), experts.end(), std::back_inserter(missing),
               [&](std::int32_t e) { return !here[static_cast<std::size_t>(e)]; });
  std::vector<Chunk> chunks(filled_.begin(), filled_.end());
  for (Chunk& chunk : chunks_of(source, missing)) chunks.push_back(std::move(chunk));
  if (chunks.empty()) return;

  KT_CHECK(result.gpu_type() == GpuType::kF32);
  void* sums = result.update_on(gpu);
  const std::size_t mark = gpu.mark();
  MoeArgs args;
  args.gate.format = args.up.format = layer->matrices[0].format;
  args.down.format = layer->matrices[2].format;
  args.n_experts = source.per_chunk;
  args.d_model = layer->matrices[0].k;
  args.d_ff = layer->matrices[0].n;
  args.m = pairs_at_once(args.d_ff, args.d_model, x.n_rows() * routing.n_active);
  std::vector<std::vector<std::int32_t>> ids;
  for (const Chunk& chunk : chunks) ids.push_back(chunk.experts);
  PairLists lists = list_pairs(ids, experts, routing, x.n_rows(), layer->n_experts, args.m);
  Pairs pairs;
  pairs.x_rows = send(gpu, lists.x_rows);
  pairs.ids = send(gpu, lists.ids);
  pairs.weights = send(gpu, lists.weights);
  pairs.to_rows = send(gpu, lists.to_rows);
  pairs.begins = send(gpu, lists.begins);
  pairs.x = read_bf16(gpu, x);
  pairs.rows = gpu.allocate(static_cast<std::size_t>(args.m * args.d_model) * 2);
  pairs.results = static_cast<float*>(
      gpu.allocate(static_cast<std::size_t>(args.m * args.d_model) * sizeof(float)));
  pairs.sums = static_cast<float*>(sums);
  args.x = pairs.rows;
  args.x_stride = args.y_stride = args.d_model;
  args.n_active = 1;
  args.y = pairs.results;
  args.workspace_bytes = gpu_.api().moe_workspace(args);
  args.workspace = gpu.allocate(args.workspace_bytes);
  if (!gpu.error().empty()) return filled_.clear();
  std::size_t next = filled_.size();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    while (next < chunks.size() && slot_free()) fill(step, chunks[next++]);
    compute(gpu, filled_.front(), args, pairs, lists.pieces[i]);
    filled_.pop_front();
  }
  gpu.release(mark);
  fill_ahead(step, source_after(source), experts.size());
  if (!gpu.error().empty()) filled_.clear();  // some of it may never have been copied
}

// The copies run beside what the GPU does until that layer's experts.
void ExpertStream::fill_ahead(Step& step, const Source& source, std::size_t most) noexcept {
  if (!source.pinned) return;
  std::vector<std::int32_t> all(static_cast<std::size_t>(source.experts.n_experts));
  std::iota(all.begin(), all.end(), 0);
  if (source.held != nullptr) std::erase_if(all, [&](auto e) { return source.held->holds(e); });
  std::size_t n = 0;
  for (Chunk& chunk : chunks_of(source, all)) {
    n += chunk.experts.size();
    if (slot_free() && n <= most) fill(step, std::move(chunk));
  }
}

void ExpertStream::send_ahead(Step& step, Layer layer) noexcept {
  const Source& source = source_of(layer);
  fill_ahead(step, source, static_cast<std::size_t>(layer->n_experts));
}

// After the last layer, the first one of the next step.
const ExpertStream::Source& ExpertStream::source_after(const Source& source) const {
  auto next = std::find_if(sources_.begin(), sources_.end(),
                           [&](const auto& s) { return s.get() == &source; });
  if (++next == sources_.end()) next = sources_.begin();
  return **next;
}

std::string ExpertStream::describe() const {
  std::string text;
  if (pinned_bytes_ > 0)
    text =
        fmt::format("{} of experts pinned in {:.1f} s", human_bytes(pinned_bytes_), pin_seconds_);
  if (unpinned_bytes_ > 0) {
    text += fmt::format("{}{} of experts cannot be pinned ({}){}", text.empty() ? "" : "; ",
                        human_bytes(unpinned_bytes_), refusal_,
                        streams() ? " and are copied once more" : "");
  }
  if (rates_.known() && !sources_.empty()) {
    const auto bytes = static_cast<double>(sources_.front()->experts.expert_bytes());
    text += fmt::format(
        "; {:.1f} GB/s: {:.0f} µs an expert; the CPU takes {:.0f} µs and {:.2f} a row, besides "
        "{:.2f} a row of the step",
        rates_.link / 1e9, bytes / rates_.link * 1e6, rates_.expert * 1e6, rates_.row * 1e6,
        rates_.step_row * 1e6);
  }
  return text;
}

}  // namespace kt::operators
