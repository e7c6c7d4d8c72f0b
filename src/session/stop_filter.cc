#include "session/stop_filter.h"

#include <algorithm>

#include "base/error.h"

namespace kt::session {

StopFilter::StopFilter(std::vector<std::string> stops, Sink sink)
    : stops_(std::move(stops)), sink_(std::move(sink)) {
  for (const std::string& stop : stops_) KT_CHECK(!stop.empty());
}

bool StopFilter::push(std::string_view piece) {
  if (closed_) return false;
  held_ += piece;
  std::size_t cut = std::string::npos;
  const std::string* found = nullptr;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at >= cut) continue;
    cut = at;
    found = &stop;
  }
  if (found != nullptr) {
    hit_ = *found;
    release(cut);
    closed_ = true;
    return false;
  }
  release(held_.size() - longest_partial());
  return !closed_;
}

void StopFilter::flush() {
  if (!closed_) release(held_.size());
}

// Length of the longest end of held_ that begins some stop string.
std::size_t StopFilter::longest_partial() const {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

void StopFilter::release(std::size_t n) {
  if (n == 0) return;
  const std::string part = held_.substr(0, n);
  held_.erase(0, n);
  text_ += part;
  if (sink_ && !sink_(part)) closed_ = true;
}

}  // namespace kt::session
