#include "dataserver/pool_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <thread>
#include <utility>

#include "common/base/log.h"

namespace simm::dataserver {

namespace {

constexpr auto kPoll = std::chrono::milliseconds(20);
constexpr auto kSayAgain = std::chrono::seconds(10);

std::string Errno() { return std::strerror(errno); }

// "pid start_time pid_namespace boot end": what is cut short does not count.
constexpr char kEnd[] = "end";

ProcessName ReadOwner(int fd) {
  std::array<char, 256> bytes{};
  ProcessName name;
  if (pread(fd, bytes.data(), bytes.size() - 1, 0) <= 0) return name;
  std::istringstream in(bytes.data());
  ProcessName read;
  std::string boot, end;
  if (!(in >> read.pid >> read.start_time >> read.pid_namespace >> boot >> end) || end != kEnd) {
    return name;
  }
  if (const auto id = ParseId128(boot); id.ok()) read.host_boot = *id;
  return read;
}

std::string Described(const ProcessName& owner) {
  return owner.pid == 0 ? "another data server" : "pid " + std::to_string(owner.pid);
}

}  // namespace

PoolLock::~PoolLock() {
  if (fd_ >= 0) close(fd_);
}
PoolLock::PoolLock(PoolLock&& other) noexcept { *this = std::move(other); }
PoolLock& PoolLock::operator=(PoolLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(taken_, other.taken_);
  std::swap(last_, other.last_);
  std::swap(predecessor_, other.predecessor_);
  return *this;
}

Status PoolLock::Take(const std::string& path, const std::function<bool()>& wait,
                      const Clock& clock) {
  const std::string name = path + ".lock";
  fd_ = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0) {
    return Status(Code::kUnavailable, "cannot open the pool's lock file " + name + ": " + Errno() +
                                          "; the directory must exist and be writable");
  }
  LogLimiter limiter(kSayAgain);
  while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return Status(Code::kUnavailable, "cannot lock " + name + ": " + Errno() +
                                            "; the pool must lie on a file system of this host");
    }
    if (!wait || !wait()) {
      return Status(Code::kUnavailable,
                    "the pool is in use: " + name + " is locked by " + Described(ReadOwner(fd_)) +
                        "; stop that server or give this one another pool path");
    }
    if (limiter.Allow(MonotonicClock::Get().Now()) >= 0) {
      SIMM_LOG_WARN("the pool is in use: {} is locked by {}; waiting for its end", name,
                    Described(ReadOwner(fd_)));
    }
    std::this_thread::sleep_for(kPoll);
  }
  taken_ = clock.Now();
  ReadPredecessor();
  WriteOwner();
  const Instant end = MonotonicClock::Get().Now() + kPredecessorExit;
  while (last_ == Last::kWatched && !predecessor_.Ended() && MonotonicClock::Get().Now() < end) {
    if (wait && !wait()) return Status(Code::kUnavailable, "told to stop");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return Status::Ok();
}

void PoolLock::ReadPredecessor() {
  const ProcessName last = ReadOwner(fd_);
  const ProcessName self = ThisProcess();
  const bool same_boot = last.host_boot == self.host_boot;
  if (!same_boot && !last.host_boot.IsZero() && !self.host_boot.IsZero()) {
    last_ = Last::kEnded;  // nobody outlives his kernel
  } else if (last.pid == 0 || last.pid_namespace == 0 || last.pid_namespace != self.pid_namespace) {
    last_ = Last::kUnseen;
  } else if (last.pid == self.pid && last.start_time == self.start_time) {
    last_ = Last::kEnded;  // a pool of this very process: closed, or the lock would be held
  } else {
    last_ = Last::kWatched;
    predecessor_ = WatchedProcess(last.pid, last.start_time);
  }
}

void PoolLock::WriteOwner() const {
  const ProcessName self = ThisProcess();
  const std::string text = std::to_string(self.pid) + " " + std::to_string(self.start_time) + " " +
                           std::to_string(self.pid_namespace) + " " + ToString(self.host_boot) +
                           " " + kEnd + "\n";
  // One write in place, then the cut: a kill leaves the old name or this one.
  if (pwrite(fd_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
      ftruncate(fd_, static_cast<off_t>(text.size())) != 0) {
    SIMM_LOG_WARN("cannot write the pool's lock file: {}; a successor will wait {} s", Errno(),
                  kQuarantine.count());
  }
}

bool PoolLock::PredecessorEnded(Instant now) const {
  if (last_ == Last::kEnded) return true;
  if (last_ == Last::kWatched) return predecessor_.Ended();
  return now - taken_ >= kQuarantine;
}

}  // namespace simm::dataserver
