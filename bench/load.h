#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bench/histogram.h"
#include "bench/outcome.h"
#include "bench/target.h"
#include "common/base/random.h"

namespace simm::bench {

using SteadyClock = std::chrono::steady_clock;

inline uint64_t NanosSince(SteadyClock::time_point start) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock::now() - start).count());
}

// The keys of a run and the version that each holds now. A key belongs to one writing thread at a
// time; readers of versions must be that thread or come later.
class KeySpace {
 public:
  // `tag` keeps runs and sets of keys apart.
  KeySpace(const std::string& tag, uint64_t count);
  uint64_t size() const { return keys_.size(); }
  std::string_view key(uint64_t i) const { return keys_[i]; }
  uint32_t& version(uint64_t i) { return versions_[i]; }
  uint32_t version(uint64_t i) const { return versions_[i]; }
  uint64_t seed(uint64_t i) const;

 private:
  std::vector<std::string> keys_;
  std::vector<uint32_t> versions_;
};

// When a run is warm, and when it ends.
struct Window {
  SteadyClock::time_point measure;
  SteadyClock::time_point end;
};
Window StartWindow(const Options& options);

// Keys that fill half of the cluster with values of this size, at least one batch.
uint64_t DefaultKeys(const Target& target, uint64_t most);
// A word that no other run has.
std::string RunTag();

// Puts each key's value once. The number of keys that could not be put.
uint64_t Preload(Target& target, KeySpace& keys);

// Puts batches from a thread's own part of an arena; one a thread.
class Putter {
 public:
  // `shared_fresh` numbers the new keys of all threads. The thread owns the keys i with i mod
  // threads
  // == thread.
  Putter(Target& target, KeySpace& keys, std::atomic<uint64_t>& shared_fresh, uint32_t thread,
         uint32_t threads, uint64_t arena_bytes);
  // One call; counted when `measured`.
  void PutBatch(bool measured);
  Outcome& outcome() { return outcome_; }
  uint64_t failed() const { return outcome_.errors; }

 private:
  Target& target_;
  KeySpace& keys_;
  std::atomic<uint64_t>& fresh_;
  const uint32_t thread_;
  const uint32_t threads_;
  Arena arena_;
  const uint64_t stride_;
  const uint64_t slots_;
  uint64_t next_slot_ = 0;
  uint64_t next_key_ = 0;
  Random random_;
  std::vector<std::string> fresh_keys_;
  std::vector<uint64_t> replaced_;  // of this batch
  std::vector<PutItem> items_;
  Outcome outcome_;
};

// Gets batches of random keys into a thread's own part of an arena; one a thread.
class Getter {
 public:
  Getter(Target& target, const KeySpace& keys, uint32_t thread, uint64_t arena_bytes);
  void GetBatch(bool measured);
  // Gets keys [begin, begin + batch) and checks their bytes; `least_version` leaves out others.
  void GetRange(uint64_t begin, uint32_t least_version = 0);
  Outcome& outcome() { return outcome_; }

 private:
  void Call(bool measured, bool verify);

  Target& target_;
  const KeySpace& keys_;
  Arena arena_;
  const uint64_t stride_;
  const uint64_t slots_;
  uint64_t next_slot_ = 0;
  Random random_;
  std::vector<uint64_t> chosen_;
  std::vector<GetItem> items_;
  Outcome outcome_;
};

}  // namespace simm::bench
