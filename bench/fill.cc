#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "bench/commands.h"
#include "bench/load.h"
#include "bench/progress.h"
#include "bench/value_pattern.h"
#include "common/base/hash.h"
#include "common/protocol/pool_layout.h"

namespace simm::bench {
namespace {

constexpr auto kSettleTime = std::chrono::seconds(20);
constexpr uint64_t kFreshValues = 100;

struct Held {
  uint64_t live_value_bytes = 0;
  uint64_t data_bytes = 0;
  friend bool operator==(const Held&, const Held&) = default;
};

Held ReadHeld(const Target& target) {
  Held held;
  const Result<rpc::ClusterStatus> status = target.Status();
  if (!status.ok()) return held;
  for (const rpc::NodeStatus& node : status->nodes) {
    held.live_value_bytes += node.stats.live_value_bytes;
    held.data_bytes += node.stats.data_bytes;
  }
  return held;
}

// The manager learns the servers' state from heartbeats: wait until two of them in a row say the
// same.
Held ReadSettled(const Target& target) {
  const auto end = SteadyClock::now() + kSettleTime;
  Held last;
  while (SteadyClock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    const Held held = ReadHeld(target);
    if (held == last) return held;
    last = held;
  }
  return last;
}

// Fresh values in a full cache: are they there for their first read?
void CheckFresh(Target& target, uint64_t fits, Outcome* outcome) {
  const Options& options = target.options();
  // A cluster that holds few values keeps fewer fresh ones: at most a quarter of what fits.
  KeySpace keys("fresh-" + RunTag(), std::clamp<uint64_t>(fits / 4, 1, kFreshValues));
  const uint64_t failed = Preload(target, keys);
  Getter getter(target, keys, 0, 0);
  for (uint64_t i = 0; i < keys.size(); i += options.batch) getter.GetRange(i);
  outcome->corrupt += getter.outcome().corrupt;
  outcome->extra["fresh_puts"] = keys.size() - failed;
  outcome->extra["fresh_hits"] = getter.outcome().hits - getter.outcome().corrupt;
}

}  // namespace

Result<Outcome> RunFill(Target& target) {
  const Options& options = target.options();
  const uint64_t data_bytes = target.DataBytes();
  if (data_bytes == 0) return Status(Code::kFailedPrecondition, "the cluster has no memory");
  const uint64_t each = protocol::ExtentBytes(32, options.value_bytes);
  const auto count = static_cast<uint64_t>(options.fill_factor * static_cast<double>(data_bytes) /
                                           static_cast<double>(each));
  const std::string tag = "fill-" + RunTag();
  const uint64_t stride = std::max<uint64_t>(64, RoundUp(options.value_bytes, 64));
  Arena arena(target.client(), options.batch * stride);
  Outcome outcome;
  uint64_t done = 0;
  const auto start = SteadyClock::now();
  {
    Progress progress([&] {
      return "filling: " + std::to_string(done * 100 / std::max<uint64_t>(1, count)) + " %";
    });
    std::vector<std::string> keys(options.batch);
    std::vector<PutItem> items(options.batch);
    PutOptions put_options;
    put_options.deadline = std::chrono::milliseconds(options.deadline_ms);
    while (done < count && !Interrupted()) {
      for (uint32_t i = 0; i < options.batch; ++i) {
        keys[i] = tag + "-" + std::to_string(done + i);
        std::byte* const value = arena.data() + i * stride;
        FillPattern(ValueSeed(Xxh3_64(AsBytes(keys[i])), 0), {value, options.value_bytes});
        items[i] = {keys[i], value, options.value_bytes};
      }
      const auto call = SteadyClock::now();
      const std::vector<KeyResult> results = target.client().Put(items, put_options);
      outcome.latency.Record(NanosSince(call));
      for (const KeyResult& result : results) outcome.errors += result.code == Code::kOk ? 0 : 1;
      done += options.batch;
    }
  }
  outcome.seconds = static_cast<double>(NanosSince(start)) * 1e-9;
  outcome.ops = done - outcome.errors;
  outcome.bytes = outcome.ops * options.value_bytes;
  const Held held = ReadSettled(target);
  outcome.extra["live_value_bytes"] = held.live_value_bytes;
  outcome.extra["data_bytes"] = held.data_bytes;
  outcome.extra["efficiency"] = held.data_bytes == 0 ? 0.0
                                                     : static_cast<double>(held.live_value_bytes) /
                                                           static_cast<double>(held.data_bytes);
  outcome.extra["failed_puts"] = outcome.errors;
  CheckFresh(target, data_bytes / each, &outcome);
  return outcome;
}

}  // namespace simm::bench
