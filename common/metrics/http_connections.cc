#include "common/metrics/http_connections.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/mutex.h"

namespace simm::metrics {
namespace {

using Time = std::chrono::steady_clock::time_point;

constexpr int kTickMs = 250;            // how often deadlines are looked at, while there are any
constexpr size_t kAcceptsAtATime = 64;  // then the others are served
constexpr int kMaxEvents = 64;

// What epoll says of the two descriptors that are no connections; connections count from here.
constexpr uint64_t kListener = 0;
constexpr uint64_t kWake = 1;
constexpr uint64_t kFirstConnection = 2;

struct Connection {
  enum class State {
    kReading,    // its head
    kAnswering,  // a worker has it
    kWriting,
    kLeaving,  // all is written; what the peer still sends is thrown away until it closes
  };
  int fd = -1;
  State state = State::kReading;
  std::string bytes;  // the head, then the answer
  size_t written = 0;
  bool watched = false;  // by epoll
  Time deadline;
  std::list<uint64_t>::iterator place;  // in waiting_, while kReading or kLeaving
};

bool WaitsForPeer(const Connection& connection) {
  return connection.state == Connection::State::kReading ||
         connection.state == Connection::State::kLeaving;
}

bool HeadIsWhole(const std::string& bytes) {
  return bytes.find("\r\n\r\n") != std::string::npos ||
         bytes.size() > HttpConnections::kMaxHeadBytes;
}

}  // namespace

class HttpConnections::Loop {
 public:
  Loop(int listener, int idle_seconds, Answer answer)
      : listener_(listener), idle_(idle_seconds), answer_(std::move(answer)) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    SIMM_CHECK(epoll_ >= 0 && wake_ >= 0, "no descriptors for the HTTP server");
    Control(listener_, kListener, EPOLLIN, EPOLL_CTL_ADD);
    Control(wake_, kWake, EPOLLIN, EPOLL_CTL_ADD);
    for (size_t i = 0; i < kWorkers; ++i) workers_.emplace_back([this] { Work(); });
    sockets_ = std::thread([this] { Run(); });
  }

  ~Loop() {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    Wake();
    for (std::thread& worker : workers_) worker.join();
    sockets_.join();
    for (const auto& [id, connection] : connections_) close(connection.fd);
    close(listener_);
    close(wake_);
    close(epoll_);
  }

 private:
  struct Job {
    uint64_t id;
    std::string bytes;
  };

  void Work() {
    for (;;) {
      Job job;
      {
        MutexLock lock(mutex_);
        while (asked_.empty() && !stopping_) changed_.Wait(mutex_);
        if (stopping_) return;
        job = std::move(asked_.front());
        asked_.pop_front();
      }
      job.bytes = answer_(job.bytes);
      {
        MutexLock lock(mutex_);
        answered_.push_back(std::move(job));
      }
      Wake();
    }
  }

  void Wake() {
    const uint64_t one = 1;
    (void)!write(wake_, &one, sizeof one);
  }

  void Control(int fd, uint64_t id, uint32_t events, int how) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    epoll_ctl(epoll_, how, fd, &event);
  }

  void Watch(uint64_t id, Connection& connection, uint32_t events) {
    Control(connection.fd, id, events, connection.watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD);
    connection.watched = true;
  }

  void Run() {
    epoll_event events[kMaxEvents];
    for (;;) {
      const int timeout = connections_.empty() && !accepting_paused_ ? -1 : kTickMs;
      const int count = epoll_wait(epoll_, events, kMaxEvents, timeout);
      now_ = std::chrono::steady_clock::now();
      bool newcomers = false;
      for (int i = 0; i < count; ++i) {
        if (events[i].data.u64 == kWake) {
          uint64_t ignored;
          (void)!read(wake_, &ignored, sizeof ignored);
        } else if (events[i].data.u64 == kListener) {
          newcomers = true;
        } else {
          Serve(events[i].data.u64);
        }
      }
      if (!TakeAnswers()) return;
      // Last: a newcomer takes the place only of one that had its chance to be read.
      if (newcomers) Accept();
      if (now_ >= next_tick_) Tick();
    }
  }

  // False: it is time to end.
  bool TakeAnswers() {
    std::vector<Job> answered;
    {
      MutexLock lock(mutex_);
      if (stopping_) return false;
      answered.swap(answered_);
    }
    for (Job& job : answered) {
      Connection& connection = connections_.at(job.id);
      connection.state = Connection::State::kWriting;
      connection.bytes = std::move(job.bytes);
      connection.deadline = now_ + idle_;
      Write(job.id, connection);
    }
    return true;
  }

  void Accept() {
    for (size_t i = 0; i < kAcceptsAtATime; ++i) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) OutOfDescriptors();
        if (errno != EINTR && errno != ECONNABORTED) return;
        continue;
      }
      if (connections_.size() >= kMaxConnections && !CloseTheLongestWaiting()) {
        close(fd);
        continue;
      }
      const uint64_t id = next_id_++;
      Connection& connection = connections_[id];
      connection.fd = fd;
      connection.deadline = now_ + idle_;
      connection.place = waiting_.insert(waiting_.end(), id);
      Watch(id, connection, EPOLLIN);
      // What comes in one piece, as every scraper's request does, is read before anybody can push
      // it out.
      Serve(id);
    }
  }

  // The listening socket stays readable: it is looked at again with the next tick, not at once.
  void OutOfDescriptors() {
    CloseTheLongestWaiting();
    Control(listener_, kListener, 0, EPOLL_CTL_MOD);
    accepting_paused_ = true;
    errno = EMFILE;
  }

  bool CloseTheLongestWaiting() {
    if (waiting_.empty()) return false;
    Close(waiting_.front());
    return true;
  }

  void Close(uint64_t id) {
    const auto found = connections_.find(id);
    if (WaitsForPeer(found->second)) waiting_.erase(found->second.place);
    close(found->second.fd);
    connections_.erase(found);
  }

  void Serve(uint64_t id) {
    const auto found = connections_.find(id);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    switch (connection.state) {
      case Connection::State::kReading:
      case Connection::State::kLeaving:
        return Read(id, connection);
      case Connection::State::kWriting:
        return Write(id, connection);
      case Connection::State::kAnswering:
        return;
    }
  }

  void Read(uint64_t id, Connection& connection) {
    char buffer[4096];
    for (;;) {
      const ssize_t n = recv(connection.fd, buffer, sizeof buffer, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (n <= 0) return Close(id);
      if (connection.state == Connection::State::kLeaving) {
        connection.written += static_cast<size_t>(n);
        if (connection.written > kMaxHeadBytes * 64) return Close(id);
        continue;
      }
      connection.bytes.append(buffer, static_cast<size_t>(n));
      if (HeadIsWhole(connection.bytes)) return Ask(id, connection);
    }
  }

  void Ask(uint64_t id, Connection& connection) {
    waiting_.erase(connection.place);
    connection.state = Connection::State::kAnswering;
    // Not watched meanwhile (a peer that has gone would be reported again and again): that it is
    // gone is seen when it is written to.
    Control(connection.fd, id, 0, EPOLL_CTL_DEL);
    connection.watched = false;
    MutexLock lock(mutex_);
    asked_.push_back({id, std::move(connection.bytes)});
    changed_.NotifyAll();
  }

  void Write(uint64_t id, Connection& connection) {
    while (connection.written < connection.bytes.size()) {
      const ssize_t n = send(connection.fd, connection.bytes.data() + connection.written,
                             connection.bytes.size() - connection.written, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return Watch(id, connection, EPOLLOUT);
      }
      if (n <= 0) return Close(id);
      connection.written += static_cast<size_t>(n);
      connection.deadline = now_ + idle_;
    }
    // Closing at once would cut off an answer whose peer is still sending.
    shutdown(connection.fd, SHUT_WR);
    connection.bytes = std::string();
    connection.written = 0;
    connection.state = Connection::State::kLeaving;
    connection.place = waiting_.insert(waiting_.end(), id);
    Watch(id, connection, EPOLLIN);
  }

  void Tick() {
    next_tick_ = now_ + std::chrono::milliseconds(kTickMs);
    if (accepting_paused_) {
      accepting_paused_ = false;
      Control(listener_, kListener, EPOLLIN, EPOLL_CTL_MOD);
    }
    std::vector<uint64_t> late;
    for (const auto& [id, connection] : connections_) {
      if (connection.state != Connection::State::kAnswering && now_ >= connection.deadline)
        late.push_back(id);
    }
    for (const uint64_t id : late) Close(id);
  }

  const int listener_;
  const std::chrono::seconds idle_;
  const Answer answer_;
  int epoll_ = -1;
  int wake_ = -1;

  // The sockets' thread only.
  std::unordered_map<uint64_t, Connection> connections_;
  std::list<uint64_t> waiting_;  // those whose peer must act, the longest waiting first
  uint64_t next_id_ = kFirstConnection;
  bool accepting_paused_ = false;
  Time now_ = {};
  Time next_tick_ = {};

  Mutex mutex_;
  CondVar changed_;
  std::deque<Job> asked_ SIMM_GUARDED_BY(mutex_);
  std::vector<Job> answered_ SIMM_GUARDED_BY(mutex_);
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> workers_;
  std::thread sockets_;
};

HttpConnections::HttpConnections(int listener, int idle_seconds, Answer answer)
    : loop_(std::make_unique<Loop>(listener, idle_seconds, std::move(answer))) {}
HttpConnections::~HttpConnections() = default;

}  // namespace simm::metrics
