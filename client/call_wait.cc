// How a thread of its own drives a Call: what it waits for between the steps, and how.
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "client/call.h"
#include "common/base/spin.h"

namespace simm::client {
namespace {

// A READ takes some 2 us; beyond this a sleep costs less than a busy core.
constexpr auto kDeviceSpin = std::chrono::microseconds(20);

// One descriptor a thread, for all its waits.
class ThreadEvent {
 public:
  ThreadEvent() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    SIMM_CHECK(fd_ >= 0, "no descriptor for an eventfd: raise ulimit -n");
  }
  ~ThreadEvent() { close(fd_); }
  int fd() const { return fd_; }
  void Clear() const {
    uint64_t count;
    [[maybe_unused]] const ssize_t n = read(fd_, &count, sizeof count);
  }

 private:
  const int fd_;
};

// Rises when a lane has something new for its user.
uint64_t Arrived(const transport::Connection& connection) {
  const auto& counters = connection.counters();
  return counters.completions + counters.messages_in;
}

const ThreadEvent& Event() {
  thread_local const ThreadEvent event;
  return event;
}

}  // namespace

void Call::Run() {
  Begin(Event().fd(), /*short_steps=*/false);
  while (!Step()) WaitHere();
}

void Call::AddWaits(StepWaits* waits) {
  if (phase_ == Phase::kBetweenRounds) {
    waits->until = std::min(next_round_, deadline_);
    waits->event = waits_for_map_;
    return;
  }
  waits->until = late_ ? Instant{} : deadline_;
  for (const auto& part : parts_) {
    if (part->over) continue;
    if (!plans_.empty() && !late_) waits->until = std::min(waits->until, SilentAt(*part));
    if (!part->lane) {
      waits->event = true;
      continue;
    }
    transport::Connection& connection = part->lane->connection();
    if (connection.capabilities().needs_registration) {
      const uint64_t before = Arrived(connection);
      connection.Progress();  // whoever waits may sleep
      part->more |= Arrived(connection) != before;
    }
    const int fd = connection.PollFd();
    // Closed: broke while it began. To be looked at at once, as is what has no descriptor.
    if (connection.closed() || part->more || fd < 0) waits->until = {};
    if (!connection.closed() && fd >= 0)
      waits->descriptors.push_back({fd, connection.PollEvents(), 0});
  }
}

// A part waits for a device whose completions show in memory.
bool Call::OnDevices() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const auto& part) {
    return part->lane && part->lane->connection().capabilities().needs_registration;
  });
}

// Looks whether devices have completed something; true: something has come. On more than two
// processors for a short while without a system call; on two it gives way once to whoever does the
// device's work in software, which is cheaper than to sleep and be woken.
bool Call::LookAtDevices() {
  static const bool kSpins = std::thread::hardware_concurrency() > 2;
  if (!OnDevices()) return false;
  const Instant end = kSpins ? Now() + kDeviceSpin : Instant{};
  do {
    if (!kSpins) sched_yield();
    for (const auto& part : parts_) {
      if (part->over || !part->lane) continue;
      transport::Connection& connection = part->lane->connection();
      const uint64_t before = Arrived(connection);
      if (!connection.ProgressAwake() || Arrived(connection) != before) return true;
    }
  } while (kSpins && Now() < end);
  return false;
}

// The driver of Run: waits for what the next step needs.
void Call::WaitHere() {
  if (phase_ == Phase::kBetweenRounds) {
    const Duration pause = std::min(next_round_, deadline_) - Now();
    if (pause <= Duration::zero()) return;
    if (waits_for_map_) {
      engine_.WaitForMap(newest_seen_.term, newest_seen_.epoch, pause);
    } else {
      std::this_thread::sleep_for(pause);
    }
    return;
  }
  thread_local StepWaits waits;
  waits.until = kForever;
  waits.event = false;
  waits.descriptors.clear();
  waits.descriptors.push_back({event_fd_, POLLIN, 0});
  if (LookAtDevices()) return;
  AddWaits(&waits);
  auto& fds = waits.descriptors;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(waits.until - Now());
  if (left.count() <= 0) return;
  // Whoever has all its lanes is told nothing by the event.
  const std::span<pollfd> wanted = std::span(fds).subspan(waits.event ? 0 : 1);
  thread_local SpinBeforeSleep spin;
  const bool found =
      !OnDevices() && spin.Try([&] { return poll(wanted.data(), wanted.size(), 0) != 0; });
  if (!found) {
    poll(wanted.data(), wanted.size(), static_cast<int>(std::min<int64_t>(left.count(), 60'000)));
  }
  if ((fds[0].revents & POLLIN) != 0) Event().Clear();
}

}  // namespace simm::client
