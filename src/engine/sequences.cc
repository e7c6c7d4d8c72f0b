#include "engine/sequences.h"

#include <algorithm>

namespace kt::engine {

Sequences::Sequences(const operators::Model& model, backend::Cpu& cpu, tensor::Format kv_format,
                     std::int64_t n_tokens)
    : cpu_(cpu), pool_(model.state_spec(), kv_format, n_tokens, cpu) {}

void Sequences::select(std::span<const std::int64_t> parents) {
  ++version_;
  std::vector<Sequence> chosen;
  for (const std::int64_t parent : parents) {
    Sequence& s = chosen.emplace_back();
    if (parent < 0) continue;
    const Sequence& from = sequences_[static_cast<std::size_t>(parent)];
    s = {from.pages.share(pool_, from.length), from.length};
  }
  for (Sequence& s : sequences_) s.pages.truncate(pool_, 0);
  sequences_ = std::move(chosen);
}

void Sequences::truncate(std::int64_t index, std::int64_t n_tokens) {
  ++version_;
  Sequence& s = sequences_[static_cast<std::size_t>(index)];
  s.length = std::min(s.length, n_tokens);
  s.pages.truncate(pool_, s.length);
}

Sequences::Rows Sequences::append(std::span<const Feed> feeds) {
  const auto end = [&](const Feed& f) {
    return length(f.sequence) + static_cast<std::int64_t>(f.tokens.size());
  };
  std::int64_t n_wanted = 0;
  for (const Feed& f : feeds) {
    const Sequence& s = sequences_[static_cast<std::size_t>(f.sequence)];
    n_wanted += s.pages.n_wanted(pool_, s.length, end(f));
  }
  if (n_wanted > pool_.n_free()) {
    const std::int64_t n_pages = pool_.n_pages() - pool_.n_free() + n_wanted;
    pool_.grow(std::max(n_pages, pool_.n_pages() * 3 / 2) * tensor::kKvPageLen, cpu_);
  }
  Rows rows;
  rows.owner = this;
  rows.version = ++version_;
  for (const Feed& f : feeds) {
    Sequence& s = sequences_[static_cast<std::size_t>(f.sequence)];
    KT_CHECK(s.pages.make_room(pool_, s.length, end(f)));
    const auto n = static_cast<std::int64_t>(f.tokens.size());
    rows.sequences.push_back(
        {static_cast<std::int64_t>(rows.tokens.size()), n, s.length, s.pages.data()});
    rows.indices.push_back(f.sequence);
    rows.tokens.insert(rows.tokens.end(), f.tokens.begin(), f.tokens.end());
    for (std::int64_t i = 0; i < n; ++i)
      rows.positions.push_back(static_cast<std::int32_t>(s.length + i));
  }
  return rows;
}

void Sequences::commit(const Rows& rows) {
  KT_CHECK(are_valid(rows));
  for (std::size_t i = 0; i < rows.indices.size(); ++i) {
    const operators::SequenceRows& s = rows.sequences[i];
    sequences_[static_cast<std::size_t>(rows.indices[i])].length = s.position + s.n_rows;
  }
}

}  // namespace kt::engine
