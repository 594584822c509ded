#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string_view>

#include "common/base/code.h"
#include "common/base/hash.h"
#include "common/protocol/messages.h"
#include "common/routing/map_holder.h"

namespace simm::dataserver {

// Whether this server answers for a key, by the newest map at the time of the request: its owners
// take writes and reads, the sources that its row names reads only. One-thread.
class ShardCheck {
 public:
  // `self`: own id in the map, kNoServer until registered. Both are borrowed.
  ShardCheck(MapHolder& map, const std::atomic<ServerId>& self) : map_(map), self_(self) {}

  // Takes the newest map for the request at hand.
  void Load();
  enum class For : uint8_t { kRead, kWrite };
  // kOk and the hash; kWrongOwner.
  Code Check(For purpose, NamespaceId ns, std::string_view key, Hash128* hash);
  // nullptr: there is none yet.
  const RouteTable* table() const { return table_.get(); }
  ServerId self() const { return self_.load(std::memory_order_acquire); }
  // Of the map in use.
  protocol::MapStamp Stamp() const;

 private:
  MapHolder& map_;
  const std::atomic<ServerId>& self_;
  std::shared_ptr<const RouteTable> table_;
  NamespaceId seed_namespace_ = 0;
  std::optional<uint64_t> seed_;
};

}  // namespace simm::dataserver
