#include "operators/expert_cache.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "io/names.h"
#include "operators/row_ops.h"

namespace kt::operators {
namespace {

using backend::CopyKind;
using kernels::cuda::Status;

/// A step of decoding reads hundreds of experts: as few as these cost it a hundredth.
constexpr std::size_t kMovesAStep = 4;

}  // namespace

class ExpertCache::Layer {
 public:
  Layer(ExpertStream::Layer from, std::int64_t n_slots)
      : source(from), hot(from->n_experts, n_slots) {}

  ExpertStream::Tiles tiles_of(std::int32_t slot) const {
    ExpertStream::Tiles at;
    for (std::size_t p = 0; p < 3; ++p) at[p] = tiles[p] + static_cast<std::size_t>(slot) * each[p];
    return at;
  }
  std::size_t table_bytes() const {
    return static_cast<std::size_t>(hot.n_experts()) * sizeof(std::int32_t);
  }

  ExpertStream::Layer source;
  HotExperts hot;
  ExpertStream::Tiles tiles{};        // of all slots
  std::array<std::size_t, 3> each{};  // bytes of an expert's
  std::int32_t* table = nullptr;      // hot.slots() on the GPU
  std::size_t image_at = 0;           // bytes, where the table leaves from
  bool changed = false;               // since the table was sent
};

ExpertCache::ExpertCache(ExpertStream& stream, std::size_t expert_bytes, ExpertCacheMode mode,
                         ExpertProfile profile)
    : stream_(stream),
      mode_(mode),
      profile_(std::move(profile)),
      staging_(gpu().allocate_bytes(expert_bytes)),
      sent_(gpu().event(false)),
      free_(gpu().event(false)),
      arrived_(gpu().event(false)) {}

ExpertCache::~ExpertCache() = default;

ExpertCache::Layer* ExpertCache::add(ExpertStream::Layer source, std::int64_t n_slots) {
  gpu().use();
  auto layer = std::make_unique<Layer>(source, std::min(n_slots, source->n_experts));
  n_slots = layer->hot.n_slots();
  for (std::size_t p = 0; p < 3; ++p) {
    const ExpertSource::Matrix& m = source->matrices[p];
    layer->each[p] = gpu().api().packed_bytes(m.format, m.n, m.k);
    layer->tiles[p] = gpu().allocate_bytes(layer->each[p] * static_cast<std::size_t>(n_slots));
  }
  layer->table = gpu().allocate<std::int32_t>(source->n_experts);
  if (!profile_.empty()) layer->hot.expect(profile_.at(io::layer_of(source->path).value()));
  const std::vector<std::int32_t> experts = layer->hot.most_used();
  for (std::int32_t slot = 0; slot < n_slots; ++slot) {
    const std::int32_t e = experts[static_cast<std::size_t>(slot)];
    gpu().check(stream_.bring(source, e, staging_, layer->tiles_of(slot)), source->path.c_str());
    layer->hot.put(e, slot);
  }
  gpu().check(gpu().api().stream_synchronize(stream_.copies()), source->path.c_str());
  gpu().upload(layer->table, layer->hot.slots().data(), layer->table_bytes());
  stream_.set_held(source, &layer->hot);
  layers_.push_back(std::move(layer));
  return layers_.back().get();
}

void ExpertCache::remove(Layer* layer) {
  if (gpu().api().use_device(gpu().index()) == Status::kOk)
    gpu().api().stream_synchronize(stream_.copies());
  stream_.set_held(layer->source, nullptr);
  std::erase_if(moves_, [&](const Move& move) { return move.layer == layer; });
  std::erase_if(layers_, [&](const auto& l) { return l.get() == layer; });
}

bool ExpertCache::holds(const Layer& layer, std::int32_t expert) {
  return expert >= 0 && layer.hot.holds(expert);
}

std::int64_t ExpertCache::n_slots(const Layer& layer) { return layer.hot.n_slots(); }

void ExpertCache::count(Layer& layer, const Routing& routing, std::int64_t n_rows) {
  for (std::int64_t i = 0; i < n_rows * routing.n_active; ++i) {
    if (routing.ids[i] >= 0) layer.hot.use(routing.ids[i]);
  }
  if (!routing.deferred) layer.hot.pass(n_rows);
}

// The routing's ids as slots, on the GPU. Where the host has the router's choice first, it looks
// them up.
Routing ExpertCache::to_slots(GpuStep& gpu, const Layer& layer, const Routing& routing,
                              std::int64_t n_rows) noexcept {
  const std::int64_t n = n_rows * routing.n_active;
  Routing slots = Routing::on(gpu, n_rows, routing.n_active);
  if (routing.gpu == &gpu) {
    slots.gpu_weights = routing.gpu_weights;
    const kernels::cuda::RowsArgs args{layer.table,
                                       GpuType::kF32,
                                       routing.gpu_ids,
                                       slots.gpu_ids,
                                       GpuType::kF32,
                                       n,
                                       1};  // four-byte values
    gpu.run(layer.source->path.c_str(), [&](auto& k, auto s) { return k.gather_rows(args, s); });
    return slots;
  }
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n), -1);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (routing.ids[i] >= 0) ids[i] = layer.hot.slots()[static_cast<std::size_t>(routing.ids[i])];
  }
  const auto rows = [&](const void* data) {
    return ConstMatrixF{static_cast<const float*>(data), n_rows, routing.n_active,
                        routing.n_active};
  };
  gpu.upload(rows(ids.data()), slots.gpu_ids, GpuType::kF32);
  gpu.upload(rows(routing.weights), slots.gpu_weights, GpuType::kF32);
  return slots;
}

void ExpertCache::run(Step& step, const Layer& layer, Activation& x, const Routing& routing,
                      Activation& result) noexcept {
  GpuStep& gpu = step.gpu(this->gpu().index());
  KT_CHECK(result.gpu_type() == GpuType::kF32);
  auto* y = static_cast<float*>(result.write_on(gpu));
  const std::size_t mark = gpu.mark();
  const Routing slots = to_slots(gpu, layer, routing, x.n_rows());
  const auto& matrices = layer.source->matrices;
  kernels::cuda::MoeArgs args;
  args.gate = {matrices[0].format, layer.tiles[0]};
  args.up = {matrices[1].format, layer.tiles[1]};
  args.down = {matrices[2].format, layer.tiles[2]};
  args.n_experts = layer.hot.n_slots();
  args.d_model = args.x_stride = args.y_stride = matrices[0].k;
  args.d_ff = matrices[0].n;
  args.n_active = routing.n_active;
  const auto* rows = static_cast<const std::uint16_t*>(read_bf16(gpu, x));
  const std::int64_t at_once = std::max<std::int64_t>(
      1, pairs_at_once(args.d_ff, args.d_model, x.n_rows() * args.n_active) / args.n_active);
  args.m = std::min(at_once, x.n_rows());
  args.workspace_bytes = gpu.gpu().api().moe_workspace(args);
  args.workspace = gpu.allocate(args.workspace_bytes);
  for (std::int64_t begin = 0; begin < x.n_rows(); begin += at_once) {
    args.m = std::min(at_once, x.n_rows() - begin);
    args.x = rows + begin * args.d_model;
    args.ids = slots.gpu_ids + begin * args.n_active;
    args.weights = slots.gpu_weights + begin * args.n_active;
    args.y = y + begin * args.d_model;
    gpu.run(layer.source->path.c_str(), [&](auto& k, auto s) { return k.moe(args, s); });
  }
  gpu.release(mark);
}

bool ExpertCache::may_move() const {
  return mode_ == ExpertCacheMode::kAuto &&
         std::all_of(layers_.begin(), layers_.end(),
                     [&](const auto& layer) { return stream_.is_pinned(layer->source); });
}

void ExpertCache::start() {
  if (layers_.empty() || !may_move()) return;
  std::size_t bytes = 0;
  for (const auto& layer : layers_) {
    layer->image_at = bytes;
    bytes += aligned(layer->table_bytes());
  }
  image_ = gpu().pinned(bytes);
  moves_.reserve(kMovesAStep);
  candidates_.reserve(layers_.size());
  started_ = true;
}

void ExpertCache::update(GpuStep& gpu, std::int64_t n_rows) noexcept {
  if (!started_ || !gpu.recover()) return;
  for (const auto& layer : layers_) layer->hot.age();
  bool arrived = false;
  if (!moves_.empty()) {
    gpu.run("waiting for experts",
            [&](auto& k, auto) { return k.event_done(arrived_.get(), &arrived); });
  }
  if (arrived) {
    for (const Move& move : moves_) {
      move.layer->hot.put(move.expert, move.slot);
      move.layer->changed = true;
    }
    moves_.clear();
  }
  // Prompts want the link for experts that they stream.
  const bool starts = moves_.empty() && n_rows < backend::kBatchRows;
  if (starts) choose_moves();
  send_tables(gpu);
  if (starts && !moves_.empty()) send_experts(gpu);
  if (gpu.error().empty()) return;
  moves_.clear();  // their slots stay empty
  tables_lost_ = true;
}

// Of each layer its best one, and of those the best.
void ExpertCache::choose_moves() {
  candidates_.clear();
  for (const auto& layer : layers_) {
    if (const auto change = layer->hot.change())
      candidates_.push_back({change->gain, {layer.get(), change->expert, change->slot}});
  }
  const std::size_t n = std::min(candidates_.size(), kMovesAStep);
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(n),
                    candidates_.end(),
                    [](const auto& a, const auto& b) { return a.gain > b.gain; });
  for (std::size_t i = 0; i < n; ++i) {
    const Move& move = moves_.emplace_back(candidates_[i].move);
    move.layer->hot.drop(move.slot);
    move.layer->changed = true;
  }
}

void ExpertCache::send_tables(GpuStep& gpu) noexcept {
  const auto is_due = [&](const Layer& layer) { return layer.changed || tables_lost_; };
  if (std::none_of(layers_.begin(), layers_.end(), [&](const auto& l) { return is_due(*l); }))
    return;
  gpu.run("sending tables of experts",
          [&](auto& k, auto) { return k.event_synchronize(sent_.get()); });
  if (!gpu.error().empty()) return;
  for (const auto& layer : layers_) {
    if (!is_due(*layer)) continue;
    std::byte* from = static_cast<std::byte*>(image_.get()) + layer->image_at;
    std::memcpy(from, layer->hot.slots().data(), layer->table_bytes());
    gpu.run("sending tables of experts", [&](auto& k, auto s) {
      return k.copy(layer->table, from, layer->table_bytes(), CopyKind::kToDevice, s);
    });
    layer->changed = false;
  }
  gpu.run("sending tables of experts",
          [&](auto& k, auto s) { return k.event_record(sent_.get(), s); });
  tables_lost_ = !gpu.error().empty();
}

// Behind what still reads the slots.
void ExpertCache::send_experts(GpuStep& gpu) noexcept {
  const auto copies = stream_.copies();
  gpu.run("sending experts", [&](auto& k, auto s) { return k.event_record(free_.get(), s); });
  gpu.run("sending experts",
          [&](auto& k, auto) { return k.stream_wait_event(copies, free_.get()); });
  for (const Move& move : moves_) {
    const Layer& layer = *move.layer;
    gpu.run(layer.source->path.c_str(), [&](auto&, auto) {
      return stream_.bring(layer.source, move.expert, staging_, layer.tiles_of(move.slot));
    });
  }
  gpu.run("sending experts", [&](auto& k, auto) { return k.event_record(arrived_.get(), copies); });
}

std::string ExpertCache::describe() const {
  if (layers_.empty()) return {};
  std::int64_t least = layers_.front()->hot.n_slots(), most = least;
  std::size_t bytes = 0;
  for (const auto& layer : layers_) {
    least = std::min(least, layer->hot.n_slots());
    most = std::max(most, layer->hot.n_slots());
    for (const std::size_t each : layer->each)
      bytes += each * static_cast<std::size_t>(layer->hot.n_slots());
  }
  const std::string n = least == most ? std::to_string(most) : fmt::format("{}-{}", least, most);
  const bool moves = mode_ != ExpertCacheMode::kAuto || may_move();
  return fmt::format("{} of {} experts of {} layers here too, {}{}", n,
                     layers_.front()->source->n_experts, layers_.size(), human_bytes(bytes),
                     moves ? "" : "; always the same, as host memory is not pinned");
}

}  // namespace kt::operators
