#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/commands.h"
#include "bench/load.h"
#include "bench/progress.h"
#include "bench/trace.h"
#include "bench/value_pattern.h"
#include "common/protocol/pool_layout.h"

namespace simm::bench {
namespace {

struct Counts {
  uint64_t requests = 0;
  uint64_t blocks = 0;
  uint64_t hit_blocks = 0;
  uint64_t failed_puts = 0;
  Outcome outcome;

  void Merge(const Counts& other) {
    requests += other.requests;
    blocks += other.blocks;
    hit_blocks += other.hit_blocks;
    failed_puts += other.failed_puts;
    outcome.Merge(other.outcome);
  }
};

// Plays requests one after the other; one a thread.
class Player {
 public:
  Player(Target& target, size_t longest)
      : target_(target),
        value_bytes_(target.options().value_bytes),
        stride_(std::max<uint64_t>(64, RoundUp(value_bytes_, 64))),
        arena_(target.client(), longest * stride_) {}

  // exists(all), get the longest present prefix and check every byte, put the rest.
  void Play(const std::vector<uint64_t>& ids) {
    const auto start = SteadyClock::now();
    Name(ids);
    const size_t present = PresentPrefix();
    const size_t hits = GetPrefix(ids, present);
    PutRest(ids, hits);
    if (target_.options().touch_after_put) {
      [[maybe_unused]] const std::vector<KeyResult> touched = target_.client().Touch(keys_, call_);
    }
    ++counts_.requests;
    counts_.blocks += ids.size();
    counts_.hit_blocks += hits;
    counts_.outcome.hits += hits;
    counts_.outcome.misses += ids.size() - hits;
    counts_.outcome.ops += ids.size();
    counts_.outcome.latency.Record(NanosSince(start));
  }
  const Counts& counts() const { return counts_; }

 private:
  std::byte* Slot(size_t i) { return arena_.data() + i * stride_; }
  static uint64_t Seed(uint64_t id) { return ValueSeed(id, 0); }

  void Name(const std::vector<uint64_t>& ids) {
    call_.deadline = std::chrono::milliseconds(target_.options().deadline_ms);
    texts_.clear();
    keys_.clear();
    for (const uint64_t id : ids)
      texts_.push_back(target_.options().key_prefix + std::to_string(id));
    for (const std::string& text : texts_) keys_.push_back(text);
  }

  size_t PresentPrefix() {
    const std::vector<KeyResult> results = target_.client().Exists(keys_, call_);
    size_t present = 0;
    while (present < results.size() && results[present].code == Code::kOk) ++present;
    return present;
  }

  size_t GetPrefix(const std::vector<uint64_t>& ids, size_t present) {
    if (present == 0) return 0;
    std::vector<GetItem> items;
    for (size_t i = 0; i < present; ++i) items.push_back({keys_[i], Slot(i), value_bytes_});
    GetOptions options;
    options.deadline = call_.deadline;
    const std::vector<KeyResult> results = target_.client().Get(items, options);
    size_t hits = present;
    for (size_t i = 0; i < present; ++i) {
      bool good = results[i].code == Code::kOk;
      if (good && !MatchesPattern(Seed(ids[i]), {Slot(i), value_bytes_})) {
        ++counts_.outcome.corrupt;
        good = false;
      }
      if (good) counts_.outcome.bytes += value_bytes_;
      // Evicted since the exists, or its server gone, is a miss like any other.
      if (results[i].code != Code::kOk && results[i].code != Code::kMiss) ++counts_.outcome.errors;
      if (!good) hits = std::min(hits, i);
    }
    return hits;
  }

  void PutRest(const std::vector<uint64_t>& ids, size_t begin) {
    if (begin == ids.size()) return;
    std::vector<PutItem> items;
    for (size_t i = begin; i < ids.size(); ++i) {
      FillPattern(Seed(ids[i]), {Slot(i), value_bytes_});
      items.push_back({keys_[i], Slot(i), value_bytes_});
    }
    PutOptions options;
    options.deadline = call_.deadline;
    for (const KeyResult& result : target_.client().Put(items, options)) {
      if (result.code == Code::kOk) counts_.outcome.bytes += value_bytes_;
      if (result.code != Code::kOk && result.code != Code::kExists) ++counts_.failed_puts;
    }
  }

  Target& target_;
  const uint64_t value_bytes_;
  const uint64_t stride_;
  Arena arena_;
  CallOptions call_;
  std::vector<std::string> texts_;
  std::vector<std::string_view> keys_;
  Counts counts_;
};

}  // namespace

Result<Outcome> RunTrace(Target& target, const Trace& trace) {
  const Options& options = target.options();
  std::vector<std::unique_ptr<Player>> players;
  for (uint32_t t = 0; t < options.concurrency; ++t) {
    players.push_back(std::make_unique<Player>(target, trace.longest()));
  }
  const auto& requests = trace.requests();
  std::atomic<size_t> next{0};
  const auto start = SteadyClock::now();
  {
    Progress progress([&] {
      const size_t done = std::min(next.load(), requests.size());
      return "trace: request " + std::to_string(done) + " of " + std::to_string(requests.size());
    });
    std::vector<std::thread> threads;
    for (auto& player : players) {
      threads.emplace_back([&] {
        for (size_t i; (i = next.fetch_add(1)) < requests.size() && !Interrupted();) {
          player->Play(requests[i]);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  Counts counts;
  for (const auto& player : players) counts.Merge(player->counts());
  Outcome outcome = std::move(counts.outcome);
  outcome.seconds = static_cast<double>(NanosSince(start)) * 1e-9;
  outcome.extra["requests"] = counts.requests;
  outcome.extra["blocks"] = counts.blocks;
  outcome.extra["prefix_hit_rate"] = static_cast<double>(counts.hit_blocks) /
                                     static_cast<double>(std::max<uint64_t>(1, counts.blocks));
  outcome.extra["failed_puts"] = counts.failed_puts;
  outcome.extra["distinct_blocks"] = trace.distinct();
  outcome.extra["touch_after_put"] = options.touch_after_put;
  outcome.extra["capacity_blocks"] =
      target.DataBytes() / protocol::ExtentBytes(kTraceKeyBytes, options.value_bytes);
  return outcome;
}

}  // namespace simm::bench
