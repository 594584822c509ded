// What a client expects of a cluster that is well: exact answers.
#include <gtest/gtest.h>

#include "dataserver/pool_lock.h"
#include "tests/sim/cluster_client.h"

namespace simm::sim {

using namespace std::chrono_literals;

// One key, until it has an answer; a breaker that is still open is waited for. A lane can break
// even now: time moves in steps of up to a second, and a recall waits for two. Then it is asked
// once more.
Code ClusterClient::Do(Kind kind, const std::string& key, uint64_t* version,
                       const std::function<void()>& turn) {
  Code code = Code::kUnavailable;
  for (int tries = 0; tries < 2 && code == Code::kUnavailable; ++tries) {
    for (auto& [server, peer] : peers_) {
      while (world_.Now() < peer.shunned_until) turn();
    }
    auto call = Make(kind, {key});
    // After a warm restart what the dead had been granted can fill the share that is lent, and
    // writers are told BUSY, until its quarantine ends.
    call->deadline = world_.Now() + dataserver::kQuarantine + 5s;
    if (kind != Kind::kGet) *version = call->versions[0];
    while (!Drive(*call)) turn();
    code = call->items[0].result.code;
    // As Call::Conclude.
    if (kind == Kind::kGet && code == Code::kRemoved) code = Code::kMiss;
    if (kind == Kind::kGet && code == Code::kOk) {
      const ByteSpan bytes = ByteSpan(call->memory[0]).first(call->items[0].result.value_bytes);
      EXPECT_TRUE(dataserver::IsValue(bytes, key, *version)) << key << " is not what was put last";
    }
    Conclude(*call);
  }
  return code;
}

Code ClusterClient::TryReplace(const std::string& key, Instant deadline,
                               const std::function<void()>& turn) {
  auto call = Make(Kind::kReplace, {key});
  call->deadline = deadline;
  while (!Drive(*call)) turn();
  const Code code = call->items[0].result.code;
  Conclude(*call);
  return code;
}

void ClusterClient::ExpectExact(const std::function<void()>& turn) {
  // A replacement that was given up may still be stored over one that has begun since (client.h):
  // what is under way ends first.
  for (int quiet = 0; quiet < 100; ++quiet) {
    turn();
    if (!calls_.empty() || !late_.empty()) quiet = 0;
  }
  for (uint64_t k = 0; k < kOwnKeys; ++k) {
    const std::string key = "own-" + std::to_string(number_) + "-" + std::to_string(k);
    uint64_t version = 0;
    EXPECT_EQ(Do(Kind::kReplace, key, &version, turn), Code::kOk) << key;
    const uint64_t last = version;
    EXPECT_EQ(Do(Kind::kGet, key, &version, turn), Code::kOk) << key << " of " << last;
    EXPECT_EQ(Do(Kind::kRemove, key, &version, turn), Code::kOk) << key;
    EXPECT_EQ(Do(Kind::kGet, key, &version, turn), Code::kMiss) << key << " is removed";
  }
}

}  // namespace simm::sim
