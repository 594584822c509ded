#include "common/rpc/map_source.h"

#include <utility>

namespace simm::rpc {
namespace {

bool IsNews(const std::shared_ptr<const RouteTable>& held,
            const std::shared_ptr<const RouteTable>& offered) {
  if (offered == nullptr) return false;
  return held == nullptr ||
         (MayReplace(held->version(), offered->version()) && held->version() != offered->version());
}

}  // namespace

void MapBoard::Publish(std::shared_ptr<const RouteTable> table) {
  Publish(WatcherKind::kServer, table);
  Publish(WatcherKind::kClient, std::move(table));
}

void MapBoard::Publish(WatcherKind kind, std::shared_ptr<const RouteTable> table) {
  MutexLock lock(mutex_);
  std::shared_ptr<const RouteTable>& held =
      kind == WatcherKind::kClient ? for_clients_ : for_servers_;
  if (!IsNews(held, table)) return;
  held = std::move(table);
  for (const auto& [token, subscriber] : subscribers_) {
    if (subscriber.kind == kind) subscriber.sink(held);
  }
}

size_t MapBoard::Watchers() const {
  MutexLock lock(mutex_);
  return subscribers_.size();
}

std::shared_ptr<const RouteTable> MapBoard::Current(WatcherKind kind) const {
  MutexLock lock(mutex_);
  return kind == WatcherKind::kClient ? for_clients_ : for_servers_;
}

uint64_t MapBoard::Subscribe(WatcherKind kind, Sink sink) {
  MutexLock lock(mutex_);
  const std::shared_ptr<const RouteTable>& held =
      kind == WatcherKind::kClient ? for_clients_ : for_servers_;
  if (held != nullptr) sink(held);
  const uint64_t token = next_token_++;
  subscribers_.emplace(token, Subscriber{kind, std::move(sink)});
  return token;
}

void MapBoard::Unsubscribe(uint64_t token) {
  MutexLock lock(mutex_);
  subscribers_.erase(token);
}

}  // namespace simm::rpc
