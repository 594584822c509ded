#include "dataserver/session_table.h"

#include "common/base/random.h"

namespace simm::dataserver {

uint64_t SessionTable::Open(const std::string& client_name) {
  MutexLock lock(mutex_);
  uint64_t id = 0;
  while (id == 0 || sessions_.count(id) > 0) id = OsEntropy();
  sessions_[id] = {client_name, clock_.Now()};
  return id;
}

Status SessionTable::Check(const transport::SessionTag& tag) {
  if (static_cast<uint32_t>(tag.incarnation) != static_cast<uint32_t>(incarnation_)) {
    return Status(Code::kUnavailable, "session of another start of this server");
  }
  if (!Touch(tag.session)) return Status(Code::kUnavailable, "unknown or expired session");
  return Status::Ok();
}

bool SessionTable::Touch(uint64_t session) {
  MutexLock lock(mutex_);
  const auto it = sessions_.find(session);
  if (it == sessions_.end()) return false;
  it->second.last_heard = clock_.Now();
  return true;
}

bool SessionTable::IsOpen(uint64_t session) const {
  MutexLock lock(mutex_);
  return sessions_.count(session) > 0;
}

size_t SessionTable::Expire() {
  const Instant oldest = clock_.Now() - timeout_;
  MutexLock lock(mutex_);
  return std::erase_if(sessions_,
                       [&](const auto& entry) { return entry.second.last_heard < oldest; });
}

size_t SessionTable::size() const {
  MutexLock lock(mutex_);
  return sessions_.size();
}

}  // namespace simm::dataserver
