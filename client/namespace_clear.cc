#include "client/namespace_clear.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/rpc/dataserver_stub.h"

namespace simm::client {
namespace {

constexpr size_t kServersAtATime = 8;

class Clearing {
 public:
  Clearing(const RouteTable& table, NamespaceId namespace_id, Duration timeout)
      : table_(table),
        namespace_id_(namespace_id),
        deadline_(MonotonicClock::Get().Now() + timeout) {}

  // For several threads at once: takes servers until there are none left.
  void Work() {
    const auto& servers = table_.contents().servers;
    while (true) {
      size_t at;
      {
        MutexLock lock(mutex_);
        if (next_ == servers.size()) return;
        at = next_++;
      }
      Clear(servers[at]);
    }
  }

  Result<uint64_t> Outcome() {
    MutexLock lock(mutex_);
    if (failed_.ok()) return dropped_;
    return Status(failed_.code(), std::to_string(failures_) + " of " +
                                      std::to_string(table_.contents().servers.size()) +
                                      " data servers did not clear it (" + failed_.message() +
                                      "); the others dropped " + std::to_string(dropped_) +
                                      " entries. It can be repeated");
  }

 private:
  void Clear(const ServerRecord& record) {
    const Duration left = deadline_ - MonotonicClock::Get().Now();
    const rpc::ClearNamespaceRequest request = {.expected_cluster = table_.version().cluster,
                                                .expected_server = record.id,
                                                .namespace_id = namespace_id_};
    const Result<uint64_t> dropped =
        left > Duration::zero() ? rpc::ClearNamespace(record.control_address, request, left)
                                : Status(Code::kDeadlineExceeded, "no time was left");
    MutexLock lock(mutex_);
    if (dropped.ok()) {
      dropped_ += *dropped;
      return;
    }
    ++failures_;
    if (failed_.ok())
      failed_ = Status(dropped.code(), record.name + ": " + dropped.status().message());
  }

  const RouteTable& table_;
  const NamespaceId namespace_id_;
  const Instant deadline_;
  Mutex mutex_;
  size_t next_ SIMM_GUARDED_BY(mutex_) = 0;
  uint64_t dropped_ SIMM_GUARDED_BY(mutex_) = 0;
  size_t failures_ SIMM_GUARDED_BY(mutex_) = 0;
  Status failed_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace

Result<uint64_t> ClearOnAllServers(const RouteTable& table, NamespaceId namespace_id,
                                   Duration timeout) {
  Clearing clearing(table, namespace_id, timeout);
  std::vector<std::thread> others;
  const size_t threads = std::min(kServersAtATime, table.contents().servers.size());
  for (size_t i = 1; i < threads; ++i) others.emplace_back([&] { clearing.Work(); });
  clearing.Work();
  for (std::thread& thread : others) thread.join();
  return clearing.Outcome();
}

}  // namespace simm::client
