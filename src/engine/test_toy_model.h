// A model without weights for tests of what runs models: its logits show every wrong position, page
// and prefix.
// Thread rule: as Model.
#pragma once
#include <limits>
#include <new>

#include "operators/kinds.h"

namespace kt::engine {

// Caches each token as a float; the logits of a row peak at a hash of (token, position) over all
// rows before it. A cached token `poison` makes NaN.
class ToyModel : public operators::Model {
 public:
  static constexpr std::int64_t kVocab = 97;
  ToyModel() : Model({"", "Toy", "", "cpu"}) {}
  std::vector<tensor::KvLayerSpec> state_spec() const override { return {{{{"k", 1, 1}}}}; }
  std::int64_t vocab_size() const override {
    if (no_memory) throw std::bad_alloc();
    return kVocab;
  }
  bool batches_differ() const override { return tiles; }

  void do_run(operators::Step& step, tensor::MatrixF logits) noexcept override {
    const operators::Batch& batch = step.batch;
    n_rows += step.n_rows();
    largest_batch = std::max(largest_batch, step.n_rows());
    std::int64_t longest = 0;
    for (const operators::SequenceRows& s : batch.sequences) longest = std::max(longest, s.n_rows);
    std::int64_t& count = longest < backend::kBatchRows ? most_few : most_beside_chunk;
    count =
        std::max(count, longest < backend::kBatchRows ? step.n_rows() : step.n_rows() - longest);
    const tensor::KvStreamView& cache = step.kv[0].streams[0];
    std::size_t next = 0;
    for (const operators::SequenceRows& s : batch.sequences) {
      for (std::int64_t i = 0; i < s.n_rows; ++i) {
        const auto row = static_cast<std::size_t>(s.row_begin + i);
        KT_CHECK(batch.positions[row] == s.position + i);
        *reinterpret_cast<float*>(cache.at(s.pages, s.position + i, 0)) =
            static_cast<float>(batch.tokens[row]);
      }
      for (std::int64_t i = 0; i < s.n_rows; ++i) {
        if (next == batch.logit_rows.size() || batch.logit_rows[next] != s.row_begin + i) continue;
        std::uint64_t hash = 1;
        for (std::int64_t p = 0; p <= s.position + i; ++p) {
          const float token = *reinterpret_cast<const float*>(cache.at(s.pages, p, 0));
          hash = hash * 6364136223846793005u + static_cast<std::uint64_t>(token) +
                 static_cast<std::uint64_t>(p);
        }
        float* out = logits.row(static_cast<std::int64_t>(next++));
        for (std::int64_t t = 0; t < kVocab; ++t) {
          out[t] =
              static_cast<float>((hash >> 20) * static_cast<std::uint64_t>(t + 1) % 1009) * 0.01f;
        }
        const auto row = static_cast<std::size_t>(s.row_begin + i);
        if (period > 0) out[(batch.tokens[row] + 1) % period] = 100.0f;
        if (batch.tokens[row] == poison) out[3] = std::numeric_limits<float>::quiet_NaN();
        if (batch.tokens[row] == infinite) out[3] = std::numeric_limits<float>::infinity();
      }
    }
    KT_CHECK(next == batch.logit_rows.size());
  }

  bool tiles = false;
  std::int64_t n_rows = 0;
  std::int64_t largest_batch = 0;
  // Rows of one batch at most: where each sequence has less than kBatchRows, and beside one that
  // has more.
  std::int64_t most_few = 0, most_beside_chunk = 0;
  std::int64_t period = 0;  // > 0: tokens go round
  std::int32_t poison = -1;
  std::int32_t infinite = -1;
  bool no_memory = false;  // for logits: the step throws
};

}  // namespace kt::engine
