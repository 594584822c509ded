#include "dataserver/data_service.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/limits.h"
#include "common/base/log.h"

namespace simm::dataserver {

DataService::DataService(DataContext& context,
                         std::vector<std::unique_ptr<transport::Acceptor>> acceptors,
                         size_t threads)
    : context_(context), acceptors_(std::move(acceptors)) {
  for (size_t i = 0; i < std::max<size_t>(1, threads); ++i) {
    auto& worker = *workers_.emplace_back(std::make_unique<Worker>());
    worker.loop.SetTick(limits::kDataTick, [this, &worker] { Tick(worker); });
  }
  for (const auto& acceptor : acceptors_) {
    workers_[0]->loop.Watch(acceptor->PollFd(), POLLIN,
                            [this, &acceptor = *acceptor](uint32_t) { AcceptWaiting(acceptor); });
  }
  for (auto& worker : workers_) {
    worker->thread = std::thread([&worker] { worker->loop.Run(); });
  }
}

DataService::~DataService() { Stop(Duration::zero()); }

void DataService::Stop(Duration grace) {
  if (std::exchange(stopped_, true)) return;
  workers_[0]->loop.Post([this] {
    for (const auto& acceptor : acceptors_) workers_[0]->loop.Forget(acceptor->PollFd());
  });
  // In-flight answers: a client that reads gets the rest of what it has asked for.
  const Instant end = context_.clock.Now() + grace;
  while (context_.metrics.Connections() > 0 && context_.clock.Now() < end) {
    std::atomic<size_t> asked{0};
    std::atomic<size_t> busy{0};
    for (auto& worker : workers_) {
      worker->loop.Post([&worker, &busy, &asked] {
        for (auto& [fd, session] : worker->sessions) busy += session->Busy() ? 1 : 0;
        ++asked;
      });
    }
    while (asked.load() < workers_.size()) std::this_thread::yield();
    if (busy.load() == 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (auto& worker : workers_) worker->loop.Stop();
  for (auto& worker : workers_) {
    worker->thread.join();
    worker->sessions.clear();
  }
  acceptors_.clear();
}

// A connection that cannot be taken for want of descriptors stays in the kernel's queue: the
// listener rests until the next tick, or it would be ready again at once, for ever.
void DataService::RestOutOfDescriptors(transport::Acceptor& acceptor) {
  static LogLimiter limiter(std::chrono::seconds(10));
  context_.metrics.connections_refused.fetch_add(1, std::memory_order_relaxed);
  workers_[0]->loop.Change(acceptor.PollFd(), 0);
  if (limiter.Allow(context_.clock.Now()) >= 0) {
    SIMM_LOG_ERROR("cannot accept connections: {}; raise the limit of open files (ulimit -n)",
                   std::strerror(errno));
  }
}

void DataService::AcceptWaiting(transport::Acceptor& acceptor) {
  while (true) {
    errno = 0;
    auto connection = acceptor.Accept();
    if (connection == nullptr) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        RestOutOfDescriptors(acceptor);
      }
      return;
    }
    if (context_.metrics.Connections() >= limits::kMaxConnections) {
      context_.metrics.connections_refused.fetch_add(1, std::memory_order_relaxed);
      continue;
    }
    context_.metrics.connections_accepted.fetch_add(1, std::memory_order_relaxed);
    auto& worker =
        **std::min_element(workers_.begin(), workers_.end(), [](const auto& a, const auto& b) {
          return a->load.load(std::memory_order_relaxed) < b->load.load(std::memory_order_relaxed);
        });
    worker.load.fetch_add(1, std::memory_order_relaxed);
    // std::function wants copyable captures.
    auto holder = std::make_shared<std::unique_ptr<transport::Connection>>(std::move(connection));
    worker.loop.Post([this, &worker, holder] { Adopt(worker, holder); });
  }
}

void DataService::Adopt(Worker& worker,
                        std::shared_ptr<std::unique_ptr<transport::Connection>> connection) {
  const int fd = (*connection)->PollFd();
  // Driving whatever has the descriptor by then does no harm.
  auto session = std::make_unique<DataSession>(
      context_, std::move(*connection),
      [this, &worker, fd] { worker.loop.Post([this, &worker, fd] { Drive(worker, fd); }); });
  const short events = session->connection().PollEvents();
  worker.sessions[fd] = std::move(session);
  worker.loop.Watch(fd, events, [this, &worker, fd](uint32_t) { Drive(worker, fd); });
}

void DataService::Drive(Worker& worker, int fd) {
  const auto it = worker.sessions.find(fd);
  if (it == worker.sessions.end()) return;
  DataSession& session = *it->second;
  const bool open = session.Progress();
  if (!open) {
    worker.loop.Forget(fd);
    worker.sessions.erase(it);
    worker.load.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  worker.loop.Change(fd, session.connection().PollEvents());
  if (session.WantsProgress()) {
    worker.loop.Post([this, &worker, fd] { Drive(worker, fd); });
  }
}

void DataService::Tick(Worker& worker) {
  if (&worker == workers_[0].get()) {
    const bool ended = context_.sessions.Expire() > 0;
    if (context_.one_sided != nullptr && ended) context_.one_sided->EndPins(context_.sessions);
    if (context_.one_sided != nullptr) context_.one_sided->Tick(context_.clock.Now());
    for (const auto& acceptor : acceptors_) workers_[0]->loop.Change(acceptor->PollFd(), POLLIN);
  }
  const Instant now = context_.clock.Now();
  std::vector<int> closed;
  for (auto& [fd, session] : worker.sessions) {
    session->Tick(now);
    if (session->connection().closed()) closed.push_back(fd);
  }
  for (const int fd : closed) {
    worker.loop.Forget(fd);
    worker.sessions.erase(fd);
    worker.load.fetch_sub(1, std::memory_order_relaxed);
  }
}

}  // namespace simm::dataserver
