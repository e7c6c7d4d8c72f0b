// The engine and its page store: what leaves the cache and comes back.
#include <algorithm>

#include "engine/engine_sequence.h"

namespace kt::engine {

// The hash of all tokens up to the end of a page, and of what else its rows depend on.
const Sha256& Engine::page_key(Sequence& s, std::int64_t page) {
  while (static_cast<std::int64_t>(s.page_keys.size()) <= page) {
    const auto begin = s.page_keys.size() * static_cast<std::size_t>(tensor::kKvPageLen);
    const auto tokens = std::as_bytes(
        std::span(s.tokens).subspan(begin, static_cast<std::size_t>(tensor::kKvPageLen)));
    const Sha256 before = s.page_keys.empty()
                              ? sha256(std::as_bytes(std::span(options_.kv_identity)))
                              : s.page_keys.back();
    const auto head = std::as_bytes(std::span(before));
    std::vector<std::byte> text(head.begin(), head.end());
    text.insert(text.end(), tokens.begin(), tokens.end());
    s.page_keys.push_back(sha256(text));
  }
  return s.page_keys[static_cast<std::size_t>(page)];
}

// Keeps a page in the store, if all of it is cached.
void Engine::store(Sequence& s, std::int64_t page, io::PageStore::IfBusy if_busy) {
  if (options_.page_store == nullptr || (page + 1) * tensor::kKvPageLen > s.n_cached) return;
  try {
    const Sha256& key = page_key(s, page);
    if (!options_.page_store->wants(key, if_busy)) return;
    std::vector<std::byte> rows(pool_.page_bytes());
    pool_.read(s.pages[page], rows.data());
    options_.page_store->put(key, std::move(rows), if_busy);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): a cache may forget
  }
}

// Goes on from the store where what memory has of the prompt ends. Its pages are there. False when
// there is more: others wait for the step.
bool Engine::load_stored(Sequence& s) {
  if (options_.page_store == nullptr || !s.request.reuse_prefix || s.request.on_prompt_logits)
    return true;
  constexpr int kPagesPerStep = 8;
  int n_loaded = 0;
  std::vector<std::byte> rows;
  for (std::int64_t page = s.n_cached / tensor::kKvPageLen;
       (page + 1) * tensor::kKvPageLen < s.n_tokens(); ++page) {
    const Sha256& key = page_key(s, page);
    if (!options_.page_store->has(key)) return true;
    if (n_loaded++ == kPagesPerStep) return false;
    rows.resize(pool_.page_bytes());
    if (!options_.page_store->get(key, rows)) return true;
    pool_.write(s.pages[page], rows.data());
    s.n_cached = (page + 1) * tensor::kKvPageLen;
    if (s.result.tokens.empty()) s.result.n_cached = s.n_cached;
  }
  return true;
}

}  // namespace kt::engine
