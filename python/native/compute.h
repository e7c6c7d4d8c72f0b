// The CPU that the ops of this package share, and the lock that lets one of them at a time use it.
//
//   const Compute::Lock lock(compute, ActPolicy::kQ16);   // without Python's lock
//   … lock.cpu(), lock.arena() …
//
// Thread rule: any thread; whoever holds a Lock works, with Python's lock released.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "tensor/arena.h"

namespace kt::python {

class Compute {
 public:
  /// n_threads 0: the physical cores; nodes empty: all NUMA nodes. Throws kUsage.
  Compute(int n_threads, const std::vector<int>& nodes);
  int n_threads() const { return cpu_.pool.size(); }
  int n_nodes() const { return cpu_.pool.n_nodes(); }
  CpuCaps caps() const { return cpu_.caps; }

  class Lock {
   public:
    Lock(Compute& compute, backend::ActPolicy act);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    backend::Cpu& cpu() const { return compute_.cpu_; }
    tensor::Arena& arena() const { return compute_.arena_; }

   private:
    Compute& compute_;
    std::lock_guard<std::mutex> guard_;
  };

 private:
  std::mutex mutex_;
  backend::Cpu cpu_;
  tensor::Arena arena_;
};

}  // namespace kt::python
