#include "dataserver/shard_check.h"

#include <utility>

#include "common/routing/key_hash.h"

namespace simm::dataserver {

void ShardCheck::Load() {
  auto table = map_.Get();
  if (table == table_) return;
  table_ = std::move(table);
  seed_.reset();
}

protocol::MapStamp ShardCheck::Stamp() const {
  if (table_ == nullptr) return {};
  return {table_->version().term, table_->version().epoch};
}

Code ShardCheck::Check(For purpose, NamespaceId ns, std::string_view key, Hash128* hash) {
  if (table_ == nullptr) return Code::kWrongOwner;
  if (!seed_ || seed_namespace_ != ns) {
    seed_.reset();
    for (const auto& [id, name] : table_->contents().namespaces) {
      if (id == ns) seed_ = NamespaceSeed(name);
    }
    seed_namespace_ = ns;
  }
  // A namespace that only the client's newer map knows: it waits until this server has that map
  // too.
  if (!seed_) return Code::kWrongOwner;
  *hash = HashKey(key, *seed_);
  const ServerId self = self_.load(std::memory_order_acquire);
  for (const ShardOwner& owner : table_->Owners(ShardOf(*hash))) {
    if (self == kNoServer) break;
    if (owner.server == self || (owner.source == self && purpose == For::kRead)) return Code::kOk;
  }
  return Code::kWrongOwner;
}

}  // namespace simm::dataserver
