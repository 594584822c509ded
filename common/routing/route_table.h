#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status.h"
#include "common/routing/key_hash.h"

namespace simm {

using ServerId = uint32_t;     // assigned by the manager, never reused in a cluster; 0 means none
using NamespaceId = uint16_t;  // assigned by the manager, durably; 0 is "default"
inline constexpr ServerId kNoServer = 0;

// Orders maps: a holder refuses another cluster's and a lower (term, epoch).
struct MapVersion {
  Id128 cluster;
  uint64_t term = 0;
  uint64_t epoch = 0;
  bool SameCluster(const MapVersion& other) const { return cluster == other.cluster; }
  bool OlderThan(const MapVersion& other) const {
    return term != other.term ? term < other.term : epoch < other.epoch;
  }
  friend bool operator==(const MapVersion&, const MapVersion&) = default;
};
std::string ToString(const MapVersion& version);  // "cluster 3f2a.. term 1 epoch 17"

enum class ServerState : uint8_t { kAlive = 1, kSuspect = 2, kDead = 3, kDraining = 4 };
std::string_view ServerStateName(ServerState state);  // "alive", ...

// What a data server can do that an older one cannot: bits of ServerRecord::capabilities (their
// meaning: Capability in proto/types.proto).
inline constexpr uint64_t kCapabilityReportMap = 1;
inline constexpr uint64_t kCapabilityMigration = 2;

// A data server as the map knows it.
struct ServerRecord {
  ServerId id = kNoServer;
  std::string name;
  Id128 pool_id;                // identity of the memory: survives a restart on the same pool
  uint64_t incarnation = 0;     // grows with each start on that pool
  Id128 boot_id;                // of the process
  std::string control_address;  // "host:port" of gRPC
  std::string data_address;     // "host:port" of the tcp data port
  std::string zone;
  uint64_t weight = 0;  // bytes of the pool
  ServerState state = ServerState::kAlive;
  uint64_t capabilities = 0;
  bool Can(uint64_t capability) const { return (capabilities & capability) != 0; }
  friend bool operator==(const ServerRecord&, const ServerRecord&) = default;
};

// One owner of a shard. `source`, if there is one, still holds the shard's older values: at epoch
// E+1 the owner takes the writes and begins to pull, a reader asks both at once, and the source
// keeps and serves what it has; when the owner has reported the shard as pulled, E+2 names no
// source and the old one drops it. A source is alive, or draining, and never the owner itself.
//
// With replicas a row has as many owners as the map says, all different; each is written to, each
// has its own source, and owners without one are asked first. A source may be another owner of the
// row (a lost replica is made anew from a living one), or the source of several. kNoServer is an
// empty place, without source: too few servers, or a replica that waits until another owner has
// pulled what it is to be made from.
struct ShardOwner {
  ServerId server = kNoServer;
  ServerId source = kNoServer;
  friend bool operator==(const ShardOwner&, const ShardOwner&) = default;
};

// What changes between two versions of a map.
struct MapDiff {
  MapVersion from;
  MapVersion to;
  std::vector<ServerRecord> servers;  // new or changed
  std::vector<ServerId> removed_servers;
  std::vector<std::pair<NamespaceId, std::string>> namespaces;  // new ones
  // Row of each changed shard: `replicas` owners each.
  std::vector<std::pair<uint32_t, std::vector<ShardOwner>>> rows;
};

struct MapContents {
  MapVersion version;
  uint32_t replicas = 1;
  std::vector<ServerRecord> servers;
  std::vector<std::pair<NamespaceId, std::string>> namespaces;
  // kShards * replicas, row-major; any place may be empty, all are when there is no server.
  std::vector<ShardOwner> owners;
};

// The key map: an immutable snapshot, shared by pointer between threads. key -> shard -> owners.
class RouteTable {
 public:
  // kInvalidArgument when the contents contradict themselves (owner without record, twice in a row
  // or its own source, wrong size, a namespace twice, no cluster id).
  static Result<std::shared_ptr<const RouteTable>> Create(MapContents contents);

  // The table after `diff`. kFailedPrecondition when diff.from is not this version (the holder then
  // asks for a snapshot).
  Result<std::shared_ptr<const RouteTable>> Apply(const MapDiff& diff) const;
  // The diff that leads from `older` to this table. Both must be of one cluster and replica count.
  MapDiff DiffFrom(const RouteTable& older) const;

  const MapVersion& version() const { return contents_.version; }
  const MapContents& contents() const { return contents_; }
  uint32_t replicas() const { return contents_.replicas; }

  std::span<const ShardOwner> Owners(uint32_t shard) const {
    return {contents_.owners.data() + size_t{shard} * contents_.replicas, contents_.replicas};
  }
  const ServerRecord* FindServer(ServerId id) const;  // nullptr: not in the map
  std::optional<NamespaceId> FindNamespace(std::string_view name) const;
  // Shards of which this is an owner.
  uint32_t ShardsOf(ServerId id) const;

 private:
  explicit RouteTable(MapContents contents);
  Status Check() const;
  Status CheckRows() const;

  MapContents contents_;
  std::unordered_map<ServerId, size_t> by_id_;
  std::unordered_map<std::string, NamespaceId> by_namespace_;
  std::unordered_map<ServerId, uint32_t> shards_of_;
};

// True when a holder of `held` may take `offered` in its place: the same cluster, not older.
bool MayReplace(const MapVersion& held, const MapVersion& offered);

}  // namespace simm
