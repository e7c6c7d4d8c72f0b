// The pages of an Engine's sequences: what a prompt takes over from others, and who gives way.
#include <algorithm>
#include <utility>

#include "engine/engine_sequence.h"

namespace kt::engine {

// Starts from the longest prefix that another sequence has cached; of one that still grows, whole
// pages, which it does not write any more.
void Engine::reuse_prefix(Sequence& sequence) {
  if (!sequence.request.reuse_prefix || sequence.request.on_prompt_logits) return;
  Sequence* best = nullptr;
  std::int64_t best_length = 0;
  for (const auto& other : sequences_) {
    if (other->state == Sequence::State::kQueued) continue;
    const bool grows = other->state == Sequence::State::kRunning;
    const std::int64_t most = std::min(other->n_cached, sequence.n_tokens() - 1);
    std::int64_t n = 0;
    while (n < most && other->tokens[static_cast<std::size_t>(n)] ==
                           sequence.tokens[static_cast<std::size_t>(n)]) {
      ++n;
    }
    if (grows) n -= n % tensor::kKvPageLen;
    if (n > best_length) {
      best = other.get();
      best_length = n;
    }
  }
  if (best == nullptr) return;
  if (best->state == Sequence::State::kFinished && best_length == best->n_cached) {
    // Nothing of it is left for others.
    sequence.pages = std::move(best->pages);
    std::erase_if(sequences_, [best](const auto& s) { return s.get() == best; });
  } else {
    sequence.pages = best->pages.share(pool_, best_length);
  }
  sequence.n_cached = best_length;
  if (sequence.result.tokens.empty()) sequence.result.n_cached = best_length;
}

// Pages for the rows from those cached up to n_tokens; the longest unused sequences give way, from
// their ends.
bool Engine::ensure_pages(Sequence& sequence, std::int64_t n_tokens) {
  while (!sequence.pages.make_room(pool_, sequence.n_cached, n_tokens)) {
    const auto oldest =
        std::min_element(sequences_.begin(), sequences_.end(), [](const auto& a, const auto& b) {
          const auto key = [](const auto& s) {
            return std::pair(s->state != Sequence::State::kFinished, s->last_used);
          };
          return key(a) < key(b);
        });
    if (oldest == sequences_.end() || (*oldest)->state != Sequence::State::kFinished) return false;
    Sequence& s = **oldest;
    const std::int64_t last = s.pages.size() - 1;
    if (last >= 0) {
      store(s, last, io::PageStore::IfBusy::kDrop);
      s.pages.truncate(pool_, last * tensor::kKvPageLen);
      s.n_cached = std::min(s.n_cached, last * tensor::kKvPageLen);
    }
    if (last <= 0) sequences_.erase(oldest);
  }
  return true;
}

// ensure_pages for the i-th of those that run; those behind it give way, then it itself does.
bool Engine::make_room(std::vector<Sequence*>& running, std::size_t i, std::int64_t n_tokens) {
  Sequence& sequence = *running[i];
  const auto wait_again = [this](Sequence& s) {
    for (std::int64_t page = 0; page < s.pages.size(); ++page)
      store(s, page, io::PageStore::IfBusy::kDrop);
    s.pages.truncate(pool_, 0);
    s.n_cached = 0;
    s.state = Sequence::State::kQueued;
  };
  while (!ensure_pages(sequence, n_tokens)) {
    if (running.size() > i + 1) {
      wait_again(*running.back());
      running.pop_back();
    } else if (i > 0) {
      wait_again(sequence);
      return false;
    } else {
      finish(sequence, FinishReason::kContextFull);
      return false;
    }
  }
  return true;
}

}  // namespace kt::engine
