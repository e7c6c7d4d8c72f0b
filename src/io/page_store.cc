#include "io/page_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "io/atomic_file.h"

namespace kt::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".page";
constexpr std::uint64_t kMaxQueuedBytes = std::uint64_t{256} << 20;

struct Header {
  std::array<char, 8> magic;
  std::uint64_t sum;
};
constexpr std::array<char, 8> kMagic = {'K', 'T', 'P', 'A', 'G', 'E', '1', '\n'};

// Finds damage, not malice: the folder is the user's own.
std::uint64_t checksum(std::span<const std::byte> bytes) {
  constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15u;
  std::array<std::uint64_t, 4> lanes = {1, 2, 3, 4};
  const auto mix = [&](const std::byte* block) {
    std::array<std::uint64_t, 4> words;
    std::memcpy(words.data(), block, sizeof(words));
    for (std::size_t i = 0; i < 4; ++i) lanes[i] = std::rotl((lanes[i] ^ words[i]) * kFactor, 29);
  };
  const std::size_t whole = bytes.size() / 32 * 32;
  for (std::size_t i = 0; i < whole; i += 32) mix(bytes.data() + i);
  std::array<std::byte, 32> tail{};
  std::memcpy(tail.data(), bytes.data() + whole, bytes.size() - whole);
  mix(tail.data());
  std::uint64_t sum = bytes.size();
  for (const std::uint64_t lane : lanes) sum = std::rotl((sum ^ lane) * kFactor, 31);
  return sum;
}

std::optional<Sha256> key_of(std::string_view name) {
  Sha256 key;
  if (name.size() != 2 * key.size() + kSuffix.size() || !name.ends_with(kSuffix)) return {};
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  for (std::size_t i = 0; i < key.size(); ++i) {
    const int high = digit(name[2 * i]), low = digit(name[2 * i + 1]);
    if (high < 0 || low < 0) return {};
    key[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  return key;
}

// What a killed process may leave where files cannot be nameless (atomic_file.h).
bool is_left_over(std::string_view name) {
  const std::size_t at = name.find(".tmp-");
  return at != std::string_view::npos && key_of(name.substr(0, at)).has_value();
}

bool read_all(int fd, void* to, std::size_t n) {
  auto* at = static_cast<std::byte*>(to);
  while (n > 0) {
    const ssize_t got = ::read(fd, at, n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    n -= static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace

std::size_t PageStore::KeyHash::operator()(const Sha256& key) const {
  std::size_t hash;
  std::memcpy(&hash, key.data(), sizeof(hash));
  return hash;
}

PageStore::PageStore(std::string folder, std::uint64_t max_bytes)
    : folder_(std::move(folder)), max_bytes_(max_bytes) {
  lock_folder();
  try {
    find_files();
  } catch (const fs::filesystem_error& e) {
    ::close(lock_);
    fail(ErrorCode::kIo, folder_, "cannot be listed: {}", e.code().message());
  }
  writer_ = std::thread([this] { write_queued(); });
}

PageStore::~PageStore() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  queue_changed_.notify_all();
  writer_.join();
  ::close(lock_);
}

std::string PageStore::file_of(const Sha256& key) const {
  return fmt::format("{}/{}{}", folder_, hex(key), kSuffix);
}

void PageStore::lock_folder() {
  std::error_code error;
  const bool made = fs::create_directories(folder_, error);
  if (error) fail(ErrorCode::kIo, folder_, "cannot be made: {}", error.message());
  // What is cached tells what was asked.
  if (made) fs::permissions(folder_, fs::perms::owner_all, error);
  lock_ = ::open((folder_ + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0)
    fail(ErrorCode::kIo, folder_, "cannot be written: {}", std::generic_category().message(errno));
  if (::flock(lock_, LOCK_EX | LOCK_NB) == 0) return;
  ::close(lock_);
  fail(ErrorCode::kUsage, folder_, "is in use by another process; name another folder");
}

void PageStore::find_files() {
  struct Found {
    Sha256 key;
    std::uint64_t bytes;
    fs::file_time_type used;
  };
  std::vector<Found> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    std::error_code error;
    if (is_left_over(name)) fs::remove(entry.path(), error);
    const std::optional<Sha256> key = key_of(name);
    if (!key || !entry.is_regular_file(error)) continue;
    const std::uint64_t bytes = entry.file_size(error);
    if (!error) found.push_back({*key, bytes, entry.last_write_time(error)});
  }
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.used < b.used; });
  for (const Found& f : found) add(f.key, f.bytes);
  make_room(0);
}

void PageStore::add(const Sha256& key, std::uint64_t bytes) {
  by_key_[key] = files_.insert(files_.end(), {key, bytes});
  stats_.bytes += bytes;
  ++stats_.n_pages;
}

void PageStore::remove(const Sha256& key) {
  const auto it = by_key_.find(key);
  if (it == by_key_.end()) return;
  ::unlink(file_of(key).c_str());
  stats_.bytes -= it->second->bytes;
  --stats_.n_pages;
  files_.erase(it->second);
  by_key_.erase(it);
}

void PageStore::make_room(std::uint64_t bytes) {
  while (!files_.empty() && stats_.bytes + bytes > max_bytes_) remove(Sha256(files_.front().key));
}

const PageStore::Queued* PageStore::find_queued(const Sha256& key) const {
  const auto it = std::find_if(queue_.begin(), queue_.end(),
                               [&](const Queued& queued) { return queued.key == key; });
  return it == queue_.end() ? nullptr : &*it;
}

bool PageStore::is_there(const Sha256& key) const {
  return by_key_.contains(key) || find_queued(key) != nullptr;
}

bool PageStore::has(const Sha256& key) const {
  const std::lock_guard lock(mutex_);
  return is_there(key);
}

bool PageStore::wants(const Sha256& key, IfBusy if_busy) {
  const std::lock_guard lock(mutex_);
  if (is_there(key)) return false;
  if (if_busy == IfBusy::kWait || queued_bytes_ < kMaxQueuedBytes) return true;
  ++stats_.n_dropped;
  return false;
}

void PageStore::put(const Sha256& key, std::vector<std::byte> page, IfBusy if_busy) {
  std::unique_lock lock(mutex_);
  if (is_there(key)) return;
  if (if_busy == IfBusy::kWait)
    queue_changed_.wait(lock, [this] { return queued_bytes_ < kMaxQueuedBytes; });
  if (queued_bytes_ >= kMaxQueuedBytes || page.size() + sizeof(Header) > max_bytes_) {
    ++stats_.n_dropped;
    return;
  }
  queued_bytes_ += page.size();
  queue_.push_back({key, std::move(page)});
  queue_changed_.notify_all();
}

bool PageStore::get(const Sha256& key, std::span<std::byte> page) {
  {
    const std::lock_guard lock(mutex_);
    if (const Queued* queued = find_queued(key)) {
      if (queued->page.size() != page.size()) return false;
      std::copy(queued->page.begin(), queued->page.end(), page.begin());
      ++stats_.n_read;
      return true;
    }
    const auto it = by_key_.find(key);
    if (it == by_key_.end()) return false;
    files_.splice(files_.end(), files_, it->second);
  }
  const bool good = read(file_of(key), page);
  const std::lock_guard lock(mutex_);
  if (good) {
    ++stats_.n_read;
  } else if (by_key_.contains(key)) {
    ++stats_.n_failed;
    remove(key);
  }
  return good;
}

void PageStore::forget(const Sha256& key) {
  const std::lock_guard lock(mutex_);
  remove(key);
}

bool PageStore::read(const std::string& path, std::span<std::byte> page) const {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  Header header{};
  std::byte more;
  const bool good = read_all(fd, &header, sizeof(header)) && header.magic == kMagic &&
                    read_all(fd, page.data(), page.size()) && ::read(fd, &more, 1) == 0 &&
                    header.sum == checksum(page);
  ::futimens(fd, nullptr);  // the order of use, for the next process
  ::close(fd);
  return good;
}

bool PageStore::write(const Queued& queued) const {
  try {
    AtomicFile file(file_of(queued.key), AtomicFile::Sync::kNone, 0600);
    const Header header{kMagic, checksum(queued.page)};
    file.write(std::as_bytes(std::span(&header, 1)));
    file.write(queued.page);
    file.finish();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void PageStore::write_queued() {
  std::unique_lock lock(mutex_);
  while (true) {
    queue_changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Queued& next = queue_.front();  // stays where it is while others are added
    const std::uint64_t bytes = next.page.size() + sizeof(Header);
    make_room(bytes);
    lock.unlock();
    const bool written = write(next);
    lock.lock();
    if (written) {
      add(next.key, bytes);
      ++stats_.n_written;
    } else {
      ++stats_.n_failed;
    }
    queued_bytes_ -= next.page.size();
    queue_.pop_front();
    queue_changed_.notify_all();
  }
}

void PageStore::flush() {
  std::unique_lock lock(mutex_);
  queue_changed_.wait(lock, [this] { return queue_.empty(); });
}

PageStore::Stats PageStore::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace kt::io
