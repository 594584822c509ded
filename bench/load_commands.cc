#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "bench/commands.h"
#include "bench/load.h"
#include "bench/progress.h"
#include "bench/work_meter.h"

// put, get, exists and mixed: threads that call in a loop for a given time.
namespace simm::bench {
namespace {

constexpr uint64_t kMostKeys = 1 << 20;
constexpr uint64_t kMostExistsKeys = 100'000;

// Runs `body(thread, window)` in `threads` threads and shows the time on a terminal.
void RunThreads(const Options& options, uint32_t threads, const Window& window,
                const std::function<void(uint32_t, const Window&)>& body) {
  Progress progress([&] {
    const double left = std::chrono::duration<double>(window.end - SteadyClock::now()).count();
    return options.op + ": " + std::to_string(static_cast<int>(std::max(0.0, left))) + " s to go";
  });
  std::vector<std::thread> running;
  for (uint32_t t = 0; t < threads; ++t) running.emplace_back([&, t] { body(t, window); });
  for (std::thread& thread : running) thread.join();
}

// Calls `once(measured)` until the window ends. The seconds that were measured.
double Loop(const Window& window, const std::function<void(bool)>& once) {
  while (SteadyClock::now() < window.measure && !Interrupted()) once(false);
  const auto start = SteadyClock::now();
  while (SteadyClock::now() < window.end && !Interrupted()) once(true);
  return static_cast<double>(NanosSince(start)) * 1e-9;
}

Status PreloadAll(Target& target, KeySpace& keys) {
  const uint64_t failed = Preload(target, keys);
  if (failed == 0) return Status::Ok();
  return Status(Code::kFailedPrecondition, std::to_string(failed) + " of " +
                                               std::to_string(keys.size()) +
                                               " keys could not be put; see simmctl nodes");
}

// Reads every key once and checks its bytes against its last version.
void CheckAll(Target& target, KeySpace& keys, Outcome* outcome) {
  Getter getter(target, keys, 0, 0);
  for (uint64_t i = 0; i < keys.size() && !Interrupted(); i += target.options().batch) {
    getter.GetRange(i, /*least_version=*/1);
  }
  outcome->hits = getter.outcome().hits;
  outcome->misses = getter.outcome().misses;
  outcome->errors += getter.outcome().errors;
  outcome->corrupt = getter.outcome().corrupt;
}

}  // namespace

Result<Outcome> RunPut(Target& target) {
  const Options& options = target.options();
  const uint64_t least = uint64_t{options.threads} * options.batch;
  KeySpace keys(RunTag(), std::max(least, DefaultKeys(target, kMostKeys)));
  std::atomic<uint64_t> fresh{Random(OsEntropy()).Below(1ULL << 40)};
  std::vector<std::unique_ptr<Putter>> putters;
  for (uint32_t t = 0; t < options.threads; ++t) {
    putters.push_back(std::make_unique<Putter>(target, keys, fresh, t, options.threads,
                                               options.arena_bytes / options.threads));
  }
  Outcome outcome;
  const WorkMeter meter(target);
  std::vector<double> seconds(options.threads);
  RunThreads(options, options.threads, StartWindow(options), [&](uint32_t t, const Window& w) {
    seconds[t] = Loop(w, [&](bool measured) { putters[t]->PutBatch(measured); });
  });
  for (const auto& putter : putters) outcome.Merge(putter->outcome());
  outcome.seconds = *std::max_element(seconds.begin(), seconds.end());
  outcome.extra["failed_puts"] = outcome.errors;
  meter.AddTo(&outcome);
  if (options.verify) CheckAll(target, keys, &outcome);
  return outcome;
}

Result<Outcome> RunGet(Target& target) {
  const Options& options = target.options();
  KeySpace keys(RunTag(), DefaultKeys(target, kMostKeys));
  if (const Status status = PreloadAll(target, keys); !status.ok()) return status;
  std::vector<std::unique_ptr<Getter>> getters;
  for (uint32_t t = 0; t < options.threads; ++t) {
    getters.push_back(
        std::make_unique<Getter>(target, keys, t, options.arena_bytes / options.threads));
  }
  Outcome outcome;
  const WorkMeter meter(target);
  std::vector<double> seconds(options.threads);
  RunThreads(options, options.threads, StartWindow(options), [&](uint32_t t, const Window& w) {
    seconds[t] = Loop(w, [&](bool measured) { getters[t]->GetBatch(measured); });
  });
  for (const auto& getter : getters) outcome.Merge(getter->outcome());
  outcome.seconds = *std::max_element(seconds.begin(), seconds.end());
  meter.AddTo(&outcome);
  return outcome;
}

Result<Outcome> RunExists(Target& target) {
  const Options& options = target.options();
  KeySpace keys(RunTag(), DefaultKeys(target, kMostExistsKeys));
  if (const Status status = PreloadAll(target, keys); !status.ok()) return status;
  std::vector<Outcome> outcomes(options.threads);
  const WorkMeter meter(target);
  RunThreads(options, options.threads, StartWindow(options), [&](uint32_t t, const Window& w) {
    Random random(options.seed * 1000 + t);
    std::vector<std::string_view> asked(options.batch);
    CallOptions call;
    call.deadline = std::chrono::milliseconds(options.deadline_ms);
    outcomes[t].seconds = Loop(w, [&](bool measured) {
      for (std::string_view& key : asked) key = keys.key(random.Below(keys.size()));
      const auto start = SteadyClock::now();
      const std::vector<KeyResult> results = target.client().Exists(asked, call);
      ++outcomes[t].calls;
      if (!measured) return;
      outcomes[t].latency.Record(NanosSince(start));
      for (const KeyResult& result : results) {
        ++outcomes[t].ops;
        ++(result.code == Code::kOk     ? outcomes[t].hits
           : result.code == Code::kMiss ? outcomes[t].misses
                                        : outcomes[t].errors);
      }
    });
  });
  Outcome outcome;
  for (const Outcome& one : outcomes) {
    outcome.Merge(one);
    outcome.seconds = std::max(outcome.seconds, one.seconds);
  }
  meter.AddTo(&outcome);
  return outcome;
}

Result<Outcome> RunMixed(Target& target) {
  const Options& options = target.options();
  // Half of the cluster is written, half of the rest is read.
  const uint64_t half = DefaultKeys(target, kMostKeys);
  KeySpace written(RunTag(),
                   std::max<uint64_t>(half, uint64_t{options.put_threads} * options.batch));
  KeySpace read(RunTag(), std::max<uint64_t>(options.batch, half / 2));
  if (const Status status = PreloadAll(target, written); !status.ok()) return status;
  if (const Status status = PreloadAll(target, read); !status.ok()) return status;
  std::vector<std::unique_ptr<Getter>> getters;
  std::vector<std::unique_ptr<Putter>> putters;
  const uint32_t all = options.threads + options.put_threads;
  std::atomic<uint64_t> fresh{Random(OsEntropy()).Below(1ULL << 40)};
  for (uint32_t t = 0; t < options.threads; ++t) {
    getters.push_back(std::make_unique<Getter>(target, read, t, options.arena_bytes / all));
  }
  for (uint32_t t = 0; t < options.put_threads; ++t) {
    putters.push_back(std::make_unique<Putter>(target, written, fresh, t, options.put_threads,
                                               options.arena_bytes / all));
  }
  const double batches_per_s =
      options.put_rate / std::max(1.0, double{1} * options.batch * options.put_threads);
  std::vector<double> seconds(all);
  RunThreads(options, all, StartWindow(options), [&](uint32_t t, const Window& w) {
    if (t < options.threads) {
      seconds[t] = Loop(w, [&](bool measured) { getters[t]->GetBatch(measured); });
      return;
    }
    auto due = SteadyClock::now();
    seconds[t] = Loop(w, [&](bool measured) {
      putters[t - options.threads]->PutBatch(measured);
      if (batches_per_s <= 0) return;
      due += std::chrono::duration_cast<SteadyClock::duration>(
          std::chrono::duration<double>(1 / batches_per_s));
      std::this_thread::sleep_until(std::min(due, w.end));
    });
  });
  Outcome outcome;
  Outcome puts;
  for (const auto& getter : getters) outcome.Merge(getter->outcome());
  for (const auto& putter : putters) puts.Merge(putter->outcome());
  outcome.seconds = *std::max_element(seconds.begin(), seconds.end());
  outcome.errors += puts.errors;
  outcome.extra["failed_puts"] = puts.errors;
  outcome.extra["put_ops_per_s"] = static_cast<double>(puts.ops) / outcome.seconds;
  outcome.extra["put_latency_us"] = LatencyJson(puts.latency);
  return outcome;
}

}  // namespace simm::bench
