// Sequences whose tokens a caller feeds, forks and cuts itself (Transformers' generate with beams,
// rejected drafts, left-padded batches), over a KvPool that grows as they do.
//
//   rows = append(feeds) → run the model, or its modules one by one, on rows.batch() → commit(rows)
//
// Thread rule: one thread at a time.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_pool.h"
#include "operators/kinds.h"

namespace kt::engine {

class Sequences {
 public:
  /// Room for n_tokens before the pool grows. Throws as KvPool.
  Sequences(const operators::Model& model, backend::Cpu& cpu, tensor::Format kv_format,
            std::int64_t n_tokens);
  Sequences(const Sequences&) = delete;
  Sequences& operator=(const Sequences&) = delete;
  std::int64_t size() const { return static_cast<std::int64_t>(sequences_.size()); }
  /// Cached tokens of a sequence.
  std::int64_t length(std::int64_t index) const {
    return sequences_[static_cast<std::size_t>(index)].length;
  }
  /// Sequence i becomes a copy of sequence parents[i], or an empty one where that is -1; there are
  /// parents.size() of them then.
  void select(std::span<const std::int64_t> parents);
  /// Forgets all but the first n_tokens.
  void truncate(std::int64_t index, std::int64_t n_tokens);

  /// Tokens for the end of a sequence.
  struct Feed {
    std::int64_t sequence = 0;
    std::span<const std::int32_t> tokens;
  };
  /// The rows of a batch. Valid until the sequences change in another way than commit().
  struct Rows {
    std::vector<std::int32_t> tokens, positions, logit_rows;
    std::vector<operators::SequenceRows> sequences;
    std::vector<std::int64_t> indices;  // of each entry of sequences
    const Sequences* owner = nullptr;
    std::uint64_t version = 0;  // of the owner
    operators::Batch batch() const { return {tokens, positions, sequences, logit_rows}; }
  };
  /// Makes room and lists the rows, in the order of the feeds, each of another sequence. Throws
  /// kNoMemory.
  Rows append(std::span<const Feed> feeds);
  /// Counts the rows as cached; they must be valid.
  void commit(const Rows& rows);
  /// Whether these are rows of these sequences, and still valid.
  bool are_valid(const Rows& rows) const { return rows.owner == this && rows.version == version_; }
  /// The CPU that their memory belongs to.
  const backend::Cpu& cpu() const { return cpu_; }
  std::span<const tensor::KvLayerView> kv() const { return pool_.layers(); }

 private:
  struct Sequence {
    PageTable pages;
    std::int64_t length = 0;
  };
  backend::Cpu& cpu_;
  KvPool pool_;
  std::vector<Sequence> sequences_;
  std::uint64_t version_ = 0;  // of the page tables
};

}  // namespace kt::engine
