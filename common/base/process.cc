#include "common/base/process.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace simm {

uint64_t StartTimeOf(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(stat, line);
  // The name in parentheses may hold anything; behind it comes field 3.
  std::istringstream rest(line.substr(std::min(line.size(), line.rfind(')') + 1)));
  std::string field;
  for (int i = 3; i <= 22; ++i) {
    if (!(rest >> field)) return 0;
  }
  return std::strtoull(field.c_str(), nullptr, 10);
}

Id128 HostBootId() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string text;
  in >> text;
  text.erase(std::remove(text.begin(), text.end(), '-'), text.end());
  const auto id = ParseId128(text);
  return id.ok() ? *id : Id128{};
}

ProcessName ThisProcess() {
  ProcessName name;
  name.pid = static_cast<uint32_t>(getpid());
  name.start_time = StartTimeOf(getpid());
  struct stat ns {};
  if (stat("/proc/self/ns/pid", &ns) == 0) name.pid_namespace = ns.st_ino;
  name.host_boot = HostBootId();
  return name;
}

WatchedProcess::WatchedProcess(uint32_t pid, uint64_t start_time)
    : pidfd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))),
      pid_(pid),
      start_time_(start_time) {
  if (pidfd_ < 0) {
    // EINVAL: the number is that of a thread by now.
    ended_ = pid != 0 && (errno == ESRCH || errno == EINVAL);
    return;
  }
  // Compared behind the opening: the descriptor and the time are those of one process unless it has
  // ended meanwhile.
  const uint64_t now = StartTimeOf(static_cast<pid_t>(pid));
  ended_ = start_time != 0 && now != 0 && now != start_time;
}

WatchedProcess::~WatchedProcess() {
  if (pidfd_ >= 0) close(pidfd_);
}

WatchedProcess::WatchedProcess(WatchedProcess&& other) noexcept
    : pidfd_(std::exchange(other.pidfd_, -1)),
      ended_(other.ended_),
      pid_(other.pid_),
      start_time_(other.start_time_) {}

WatchedProcess& WatchedProcess::operator=(WatchedProcess&& other) noexcept {
  std::swap(pidfd_, other.pidfd_);
  ended_ = other.ended_;
  pid_ = other.pid_;
  start_time_ = other.start_time_;
  return *this;
}

bool WatchedProcess::Ended() const {
  if (ended_) return true;
  if (pidfd_ < 0) {
    return pid_ != 0 && start_time_ != 0 && StartTimeOf(static_cast<pid_t>(pid_)) != start_time_;
  }
  // Readable once the last thread has exited.
  pollfd p{pidfd_, POLLIN, 0};
  return poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

}  // namespace simm
