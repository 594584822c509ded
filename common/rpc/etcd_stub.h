#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace simm::rpc {

struct EtcdEntry {
  std::string value;
  int64_t create_revision = 0;
  int64_t mod_revision = 0;
  int64_t lease = 0;
};

// A condition of a transaction: the key was created, or changed last, by that revision; 0: it is
// not there.
struct EtcdCondition {
  enum class Of : uint8_t { kCreation, kChange };
  std::string key;
  Of of = Of::kChange;
  int64_t revision = 0;
};

// A narrow client of etcd's v3 API over gRPC: single keys, conditional puts, leases. Tries its
// endpoints in turn, beginning with the one that answered last; a call ends within its timeout. All
// fail with kUnavailable or kDeadlineExceeded when no endpoint answers, and otherwise with what
// etcd said. Thread-safe; calls block.
class EtcdStub {
 public:
  // "http://host:port", or "host:port". kInvalidArgument names what is wrong with which of them.
  static Result<std::unique_ptr<EtcdStub>> Create(const std::vector<std::string>& endpoints);
  ~EtcdStub();
  EtcdStub(const EtcdStub&) = delete;
  EtcdStub& operator=(const EtcdStub&) = delete;

  // None: no such key. Reads are linearizable: they see every transaction that has ended before.
  Result<std::optional<EtcdEntry>> Get(const std::string& key, Duration timeout);
  // The same without the value.
  Result<std::optional<EtcdEntry>> Peek(const std::string& key, Duration timeout);
  // Puts the value if all conditions hold, else does nothing. The revision that it made; none: they
  // did not hold. With a lease the key goes when the lease does. After an error it may have been
  // done, or be done yet; to repeat it is safe where the conditions exclude its own effect.
  Result<std::optional<int64_t>> PutIf(const std::vector<EtcdCondition>& conditions,
                                       const std::string& key, const std::string& value,
                                       int64_t lease, Duration timeout);
  // A lease that ends `ttl` (whole seconds) after it was kept alive last.
  Result<int64_t> GrantLease(std::chrono::seconds ttl, Duration timeout);
  // False: the lease is gone.
  Result<bool> KeepAlive(int64_t lease, Duration timeout);
  Status RevokeLease(int64_t lease, Duration timeout);

 private:
  struct Impl;
  explicit EtcdStub(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace simm::rpc
