// Pages of bytes by the hash of what they hold, as files of one folder, up to a size: a cache that
// outlives the process. Past the size, pages go that were not used for longest.
//
//   put → queue → writing thread → KEY.page        get ← queue or file, checked by its sum
//
// A file appears whole or not at all, and one that does not fit is removed and never used, so a
// process killed at any moment leaves a usable folder. One process at a time has a folder. What the
// disk refuses is counted, not thrown: a cache may forget. Thread rule: any thread.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/sha256.h"

namespace kt::io {

class PageStore {
 public:
  /// Takes the folder, which is made where it is missing, with the pages that it has. Throws kIo,
  /// and kUsage when another process has it.
  PageStore(std::string folder, std::uint64_t max_bytes);
  /// Writes what is queued.
  ~PageStore();
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  bool has(const Sha256& key) const;
  /// When too much is queued: forget the page, or wait for the disk.
  enum class IfBusy { kDrop, kWait };
  /// Whether put() would keep this page; one that is dropped is counted.
  bool wants(const Sha256& key, IfBusy if_busy);
  void put(const Sha256& key, std::vector<std::byte> page, IfBusy if_busy);
  /// Fills `page`, which must have the size that was put; false when there is no such page any
  /// more, or it is damaged.
  bool get(const Sha256& key, std::span<std::byte> page);
  /// Removes a page that is written.
  void forget(const Sha256& key);
  /// Waits until all that is queued is written.
  void flush();

  struct Stats {
    std::uint64_t n_pages = 0, bytes = 0;  // in files
    std::uint64_t n_read = 0, n_written = 0;
    std::uint64_t n_dropped = 0;  // as too much was queued
    std::uint64_t n_failed = 0;   // refused by the disk, or damaged
  };
  Stats stats() const;
  std::uint64_t max_bytes() const { return max_bytes_; }

 private:
  struct KeyHash {
    std::size_t operator()(const Sha256& key) const;
  };
  struct File {
    Sha256 key;
    std::uint64_t bytes;
  };
  struct Queued {
    Sha256 key;
    std::vector<std::byte> page;
  };
  std::string file_of(const Sha256& key) const;
  void lock_folder();
  void find_files();
  void add(const Sha256& key, std::uint64_t bytes);
  void remove(const Sha256& key);
  void make_room(std::uint64_t bytes);
  const Queued* find_queued(const Sha256& key) const;
  bool is_there(const Sha256& key) const;  // with mutex_ held
  void write_queued();
  bool write(const Queued& page) const;
  bool read(const std::string& path, std::span<std::byte> page) const;

  const std::string folder_;
  const std::uint64_t max_bytes_;
  int lock_ = -1;  // descriptor
  mutable std::mutex mutex_;
  std::condition_variable queue_changed_;
  std::deque<Queued> queue_;  // the first is being written
  std::uint64_t queued_bytes_ = 0;
  bool closing_ = false;
  std::list<File> files_;  // used longest ago first
  std::unordered_map<Sha256, std::list<File>::iterator, KeyHash> by_key_;
  Stats stats_;
  std::thread writer_;
};

}  // namespace kt::io
