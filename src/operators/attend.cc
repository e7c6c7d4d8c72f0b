#include "operators/attend.h"

#include <algorithm>

namespace kt::operators {
namespace {

namespace attention = kernels::attention;

// When fewer pieces than kFewPieces for each thread are divided by splits, about kWaveStates states
// for each thread wait to be folded, beside one of each piece.
constexpr std::int64_t kFewPieces = 2, kWaveStates = 4;

/// Query rows of one kv head that one worker takes at a time.
struct Piece {
  const attention::Kernel* kernel;
  attention::Args args;  // without memory
  attention::SplitRange range;
};

class AttendRegion {
 public:
  AttendRegion(Step& step, std::span<const SequenceRows> sequences, const AttendArgs& args)
      : step_(step), a_(args), sequences_(sequences), n_threads_(step.cpu.pool.size()) {
    scratch_size_ = attention::scratch_floats(a_.dim_qk, a_.dim_v);
    state_size_ = attention::state_floats(a_.dim_v);
    choose_heads();
    list_pieces();
  }

  void run() noexcept {
    scratch_ = step_.arena.allocate<float>(n_threads_ * scratch_size_);
    std::int64_t most = 0;
    for (std::int64_t i = 0; i < n_pieces_; ++i) most = std::max(most, pieces_[i].range.count);
    if (most > 1 && n_pieces_ < kFewPieces * n_threads_ && n_threads_ > 1) {
      run_by_splits(most);
    } else {
      run_by_pieces();
    }
  }

 private:
  std::int64_t chunks_of(std::int64_t n_rows) const {
    return (n_rows + tokens_per_piece_ - 1) / tokens_per_piece_;
  }

  // As many heads as rows of a call, but fewer when that would leave threads idle: each group of
  // heads reads the keys for itself.
  void choose_heads() {
    const std::int64_t group = a_.n_heads / a_.n_kv_heads;
    heads_per_piece_ = std::min(group, attention::kMaxRows);
    std::int64_t units = 0;  // (rows, split) pairs per kv head
    for (const SequenceRows& s : sequences_) {
      units += s.n_rows * range_of(s.position, s.position + s.n_rows).count;
    }
    const std::int64_t wanted = (n_threads_ + a_.n_kv_heads * units - 1) / (a_.n_kv_heads * units);
    heads_per_piece_ =
        std::min(heads_per_piece_, std::max(kFewestHeads, (group + wanted - 1) / wanted));
    head_chunks_ = (group + heads_per_piece_ - 1) / heads_per_piece_;
    tokens_per_piece_ = std::max<std::int64_t>(1, attention::kMaxRows / heads_per_piece_);
  }

  attention::SplitRange range_of(std::int64_t position, std::int64_t end) const {
    return attention::splits(position, a_.window, end);
  }

  void list_pieces() {
    std::int64_t n_chunks = 0;
    for (const SequenceRows& s : sequences_) n_chunks += chunks_of(s.n_rows);
    pieces_ = step_.arena.allocate<Piece>(n_chunks * a_.n_kv_heads * head_chunks_);
    for (const SequenceRows& s : sequences_) {
      const attention::Kernel& kernel = step_.cpu.attention_for(s.n_rows);
      for (std::int64_t token = 0; token < s.n_rows; token += tokens_per_piece_) {
        for (std::int64_t i = 0; i < a_.n_kv_heads * head_chunks_; ++i) {
          add_piece(s, token, i, kernel);
        }
      }
    }
  }

  void add_piece(const SequenceRows& s, std::int64_t token, std::int64_t index,
                 const attention::Kernel& kernel) {
    const std::int64_t group = a_.n_heads / a_.n_kv_heads;
    const std::int64_t kv_head = index / head_chunks_;
    const std::int64_t head = kv_head * group + index % head_chunks_ * heads_per_piece_;
    const std::int64_t row = s.row_begin + token;
    attention::Args args;
    args.q = a_.q + (row * a_.n_heads + head) * a_.dim_qk;
    args.q_token_stride = a_.n_heads * a_.dim_qk;
    args.q_head_stride = a_.dim_qk;
    args.n_tokens = std::min(tokens_per_piece_, s.n_rows - token);
    args.n_heads = std::min(heads_per_piece_, (kv_head + 1) * group - head);
    args.position = s.position + token;
    args.k = a_.k;
    args.v = a_.v;
    args.pages = s.pages;
    args.kv_head = kv_head;
    args.dim_qk = a_.dim_qk;
    args.dim_v = a_.dim_v;
    args.scale = a_.scale;
    args.window = a_.window;
    args.out = a_.out + (row * a_.n_heads + head) * a_.dim_v;
    args.out_token_stride = a_.n_heads * a_.dim_v;
    args.out_head_stride = a_.dim_v;
    pieces_[n_pieces_++] = {&kernel, args, range_of(args.position, args.position + args.n_tokens)};
  }

  void run_by_pieces() noexcept {
    float* states = step_.arena.allocate<float>(n_threads_ * state_size_);
    step_.cpu.pool.run(n_pieces_, [&](std::int64_t i, int worker) {
      const Piece& piece = pieces_[i];
      attention::Args args = piece.args;
      args.state = states + worker * state_size_;
      args.scratch = scratch_ + worker * scratch_size_;
      piece.kernel->clear(args);
      piece.kernel->load(args);
      for (std::int64_t s = 0; s < piece.range.count; ++s) add(piece, args, s);
      piece.kernel->finish(args);
    });
  }

  // Few pieces over many keys: the splits of a piece go to different workers, some at a time so
  // that the states stay few, and are folded in their order.
  void run_by_splits(std::int64_t most) noexcept {
    const std::int64_t wave =
        std::clamp<std::int64_t>(kWaveStates * n_threads_ / n_pieces_, 1, most);
    float* states = step_.arena.allocate<float>(n_pieces_ * (wave + 1) * state_size_);
    const auto state = [&](std::int64_t piece, std::int64_t slot) {
      return states + (piece * (wave + 1) + slot) * state_size_;
    };
    for (std::int64_t first = 0; first < most; first += wave) {
      step_.cpu.pool.run(n_pieces_ * wave, [&](std::int64_t task, int worker) {
        const Piece& piece = pieces_[task / wave];
        const std::int64_t slot = task % wave;
        if (first + slot >= piece.range.count) return;
        attention::Args args = piece.args;
        args.state = state(task / wave, slot + 1);
        args.scratch = scratch_ + worker * scratch_size_;
        piece.kernel->clear(args);
        piece.kernel->load(args);
        add(piece, args, first + slot);
      });
      step_.cpu.pool.run(n_pieces_, [&](std::int64_t i, int) {
        const Piece& piece = pieces_[i];
        attention::Args args = piece.args;
        args.state = state(i, 0);
        if (first == 0) piece.kernel->clear(args);
        for (std::int64_t s = first; s < std::min(first + wave, piece.range.count); ++s) {
          piece.kernel->fold(args, state(i, s - first + 1));
        }
        if (first + wave >= most) piece.kernel->finish(args);
      });
    }
  }

  static void add(const Piece& piece, const attention::Args& args, std::int64_t split) noexcept {
    const std::int64_t begin = piece.range.begin + split * attention::kSplitKeys;
    piece.kernel->add(args, begin, begin + attention::kSplitKeys);
  }

  Step& step_;
  const AttendArgs& a_;
  std::span<const SequenceRows> sequences_;
  std::int64_t n_threads_;
  std::int64_t scratch_size_ = 0, state_size_ = 0;  // floats
  std::int64_t heads_per_piece_ = 1, head_chunks_ = 1, tokens_per_piece_ = 1;
  Piece* pieces_ = nullptr;
  std::int64_t n_pieces_ = 0;
  float* scratch_ = nullptr;
};

}  // namespace

std::int64_t attend_floats(std::int64_t dim_qk, std::int64_t dim_v, std::int64_t n_threads) {
  return n_threads * (attention::scratch_floats(dim_qk, dim_v) +
                      (kFewPieces + kWaveStates) * attention::state_floats(dim_v));
}

void attend(Step& step, std::span<const SequenceRows> sequences, const AttendArgs& args) noexcept {
  const std::size_t mark = step.arena.mark();
  AttendRegion(step, sequences, args).run();
  step.arena.release(mark);
}

}  // namespace kt::operators
