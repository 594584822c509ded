#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/transport/transport.h"

namespace simm::dataserver {

// The clients that have shaken hands: a session lives while it is heard from and carries any number
// of connections. Thread-safe.
class SessionTable {
 public:
  SessionTable(const Clock& clock, uint64_t incarnation, Duration timeout)
      : clock_(clock), incarnation_(incarnation), timeout_(timeout) {}

  // A new session of a random id.
  uint64_t Open(const std::string& client_name);
  // kUnavailable: unknown, expired, or of another start of this server; the client shakes hands
  // again.
  Status Check(const transport::SessionTag& tag);
  // The session was heard from; false when it has ended.
  bool Touch(uint64_t session);
  bool IsOpen(uint64_t session) const;
  // Ends sessions that have been silent for the timeout; returns how many.
  size_t Expire();
  size_t size() const;
  Duration timeout() const { return timeout_; }

 private:
  struct Session {
    std::string client_name;
    Instant last_heard;
  };
  const Clock& clock_;
  const uint64_t incarnation_;
  const Duration timeout_;
  mutable Mutex mutex_;
  std::unordered_map<uint64_t, Session> sessions_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::dataserver
