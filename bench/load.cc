#include "bench/load.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "bench/progress.h"
#include "bench/value_pattern.h"
#include "common/base/hash.h"
#include "common/protocol/pool_layout.h"

namespace simm::bench {
namespace {

std::string KeyText(const std::string& tag, uint64_t number) {
  std::array<char, 32> digits{};
  std::snprintf(digits.data(), digits.size(), "%012lx", number);
  return tag + "-" + digits.data();
}

uint64_t StrideOf(uint64_t value_bytes) { return std::max<uint64_t>(64, RoundUp(value_bytes, 64)); }

// Room for at least one batch.
uint64_t ArenaBytes(const Options& options, uint64_t share) {
  return std::max(share, StrideOf(options.value_bytes) * options.batch);
}

}  // namespace

KeySpace::KeySpace(const std::string& tag, uint64_t count) : versions_(count) {
  keys_.reserve(count);
  for (uint64_t i = 0; i < count; ++i) keys_.push_back(KeyText(tag, i));
}

uint64_t KeySpace::seed(uint64_t i) const {
  return ValueSeed(Xxh3_64(AsBytes(keys_[i])), versions_[i]);
}

Window StartWindow(const Options& options) {
  const auto after = [](SteadyClock::time_point start, double seconds) {
    return start + std::chrono::duration_cast<SteadyClock::duration>(
                       std::chrono::duration<double>(seconds));
  };
  const auto measure = after(SteadyClock::now(), options.warmup_seconds);
  return {measure, after(measure, options.seconds)};
}

std::string RunTag() {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "%08x", static_cast<unsigned>(OsEntropy()));
  return text.data();
}

uint64_t DefaultKeys(const Target& target, uint64_t most) {
  const Options& options = target.options();
  if (options.keys > 0) return options.keys;
  const uint64_t each = protocol::ExtentBytes(32, options.value_bytes);
  return std::clamp<uint64_t>(target.DataBytes() / 2 / each, options.batch, most);
}

uint64_t Preload(Target& target, KeySpace& keys) {
  constexpr uint64_t kCallBytes = 16 << 20;
  const Options& options = target.options();
  const uint64_t stride = StrideOf(options.value_bytes);
  const uint64_t batch = std::clamp<uint64_t>(kCallBytes / stride, 1, 1024);
  Arena arena(target.client(), batch * stride);
  uint64_t done = 0;
  uint64_t failed = 0;
  Progress progress([&] { return "putting keys: " + std::to_string(done); });
  std::vector<PutItem> items;
  for (uint64_t begin = 0; begin < keys.size() && !Interrupted(); begin += batch) {
    items.clear();
    for (uint64_t i = begin; i < std::min(begin + batch, keys.size()); ++i) {
      std::byte* const value = arena.data() + (i - begin) * stride;
      FillPattern(keys.seed(i), {value, options.value_bytes});
      items.push_back({keys.key(i), value, options.value_bytes});
    }
    for (const KeyResult& result : target.client().Put(items)) {
      failed += result.code == Code::kOk ? 0 : 1;
    }
    done += items.size();
  }
  return failed;
}

Putter::Putter(Target& target, KeySpace& keys, std::atomic<uint64_t>& shared_fresh, uint32_t thread,
               uint32_t threads, uint64_t arena_bytes)
    : target_(target),
      keys_(keys),
      fresh_(shared_fresh),
      thread_(thread),
      threads_(threads),
      arena_(target.client(), ArenaBytes(target.options(), arena_bytes)),
      stride_(StrideOf(target.options().value_bytes)),
      slots_(arena_.size() / stride_),
      next_key_(thread),
      random_(target.options().seed * 1000 + thread) {
  for (uint64_t slot = 0; slot < slots_; ++slot) {
    FillPattern(ValueSeed(slot, thread_),
                {arena_.data() + slot * stride_, target.options().value_bytes});
  }
}

void Putter::PutBatch(bool measured) {
  const Options& options = target_.options();
  items_.clear();
  fresh_keys_.clear();
  replaced_.clear();
  fresh_keys_.reserve(options.batch);
  const bool replace = random_.Unit() < options.replace_fraction;
  const auto start = SteadyClock::now();
  for (uint32_t i = 0; i < options.batch; ++i) {
    std::byte* const value = arena_.data() + next_slot_ * stride_;
    next_slot_ = (next_slot_ + 1) % slots_;
    uint64_t seed = 0;
    if (replace) {
      ++keys_.version(next_key_);
      seed = keys_.seed(next_key_);
      items_.push_back({keys_.key(next_key_), value, options.value_bytes});
      replaced_.push_back(next_key_);
      next_key_ += threads_;
      if (next_key_ >= keys_.size()) next_key_ = thread_;
    } else {
      const uint64_t number = fresh_.fetch_add(1, std::memory_order_relaxed);
      fresh_keys_.push_back(KeyText("fresh", number));
      seed = ValueSeed(Xxh3_64(AsBytes(fresh_keys_.back())), 0);
      items_.push_back({fresh_keys_.back(), value, options.value_bytes});
    }
    // Making each value anew costs time that is not the cluster's: only when somebody looks at it.
    if (options.verify) FillPattern(seed, {value, options.value_bytes});
  }
  PutOptions put_options;
  put_options.deadline = std::chrono::milliseconds(options.deadline_ms);
  put_options.replace = replace;
  const std::vector<KeyResult> results = target_.client().Put(items_, put_options);
  const uint64_t nanos = NanosSince(start);
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].code != Code::kOk && results[i].code != Code::kExists) {
      ++outcome_.errors;
      // It holds the old value or the new one: nobody can check it.
      if (i < replaced_.size()) keys_.version(replaced_[i]) = 0;
    }
    if (!measured || results[i].code != Code::kOk) continue;
    ++outcome_.ops;
    outcome_.bytes += options.value_bytes;
  }
  if (measured) outcome_.latency.Record(nanos);
}

Getter::Getter(Target& target, const KeySpace& keys, uint32_t thread, uint64_t arena_bytes)
    : target_(target),
      keys_(keys),
      arena_(target.client(), ArenaBytes(target.options(), arena_bytes)),
      stride_(StrideOf(target.options().value_bytes)),
      slots_(arena_.size() / stride_),
      random_(target.options().seed * 1000 + 500 + thread) {}

void Getter::GetBatch(bool measured) {
  chosen_.clear();
  for (uint32_t i = 0; i < target_.options().batch; ++i)
    chosen_.push_back(random_.Below(keys_.size()));
  Call(measured, target_.options().verify);
}

void Getter::GetRange(uint64_t begin, uint32_t least_version) {
  chosen_.clear();
  const uint64_t end = std::min<uint64_t>(begin + target_.options().batch, keys_.size());
  for (uint64_t i = begin; i < end; ++i) {
    if (keys_.version(i) >= least_version) chosen_.push_back(i);
  }
  Call(/*measured=*/true, /*verify=*/true);
}

void Getter::Call(bool measured, bool verify) {
  const Options& options = target_.options();
  items_.clear();
  for (const uint64_t key : chosen_) {
    items_.push_back({keys_.key(key), arena_.data() + next_slot_ * stride_, options.value_bytes});
    next_slot_ = (next_slot_ + 1) % slots_;
  }
  GetOptions get_options;
  get_options.deadline = std::chrono::milliseconds(options.deadline_ms);
  const auto start = SteadyClock::now();
  const std::vector<KeyResult> results = target_.client().Get(items_, get_options);
  const uint64_t nanos = NanosSince(start);
  ++outcome_.calls;
  for (size_t i = 0; i < results.size(); ++i) {
    const bool hit = results[i].code == Code::kOk;
    if (hit && verify) {
      const ByteSpan value(static_cast<const std::byte*>(items_[i].data), items_[i].size);
      if (!MatchesPattern(keys_.seed(chosen_[i]), value)) ++outcome_.corrupt;
    }
    if (!measured) continue;
    ++outcome_.ops;
    if (hit) {
      ++outcome_.hits;
      outcome_.bytes += options.value_bytes;
    } else if (results[i].code == Code::kMiss) {
      ++outcome_.misses;
    } else {
      ++outcome_.errors;
    }
  }
  if (measured) outcome_.latency.Record(nanos);
}

}  // namespace simm::bench
