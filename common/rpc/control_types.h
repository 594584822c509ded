#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/host_facts.h"
#include "common/base/ids.h"
#include "common/routing/route_table.h"

// What is said on the control plane, as plain structs: the form in which the three processes see
// it. Protobuf is converted to and from these in common/rpc and nowhere else.
namespace simm::rpc {

struct RegisterRequest {
  Id128 expected_cluster;  // zero: any; else kWrongCluster from a manager of another
  std::string name;
  Id128 pool_id;
  uint64_t incarnation = 0;
  Id128 boot_id;
  std::string control_address;
  std::string data_address;
  std::string zone;
  uint64_t weight = 0;
  std::string version;        // of the program
  uint64_t capabilities = 0;  // of route_table.h
  MapVersion held{};          // of the newest map here; without a cluster: none
};
// kNoServer as `id`: not registered yet, the manager is learning the newest map (proto). The server
// goes on as it is, reports its map if `send_map` says so, and registers again after `retry_ms`.
struct RegisterReply {
  ServerId id = kNoServer;
  MapVersion map{};
  uint32_t heartbeat_ms = 0;  // how often the manager wants to hear
  uint32_t dead_ms = 0;
  bool send_map = false;
  uint32_t retry_ms = 0;
};

// A transport of a data server, and why clients can use it or not.
struct TransportStatus {
  std::string name;
  bool offered = false;
  std::string reason;
  uint64_t connections = 0;  // open now
};

// Capacity in bytes by state of DESIGN 4 and counters since start; what a data server reports.
struct ServerStats {
  uint64_t data_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t granted_bytes = 0;
  uint64_t live_bytes = 0;
  uint64_t limbo_bytes = 0;
  uint64_t pinned_bytes = 0;
  uint64_t live_value_bytes = 0;
  uint64_t entries = 0;
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t puts = 0;
  uint64_t evictions = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t connections = 0;
  std::vector<TransportStatus> transports;
};

// How far a data server is with moving shards. Counters since its start.
struct MigrationProgress {
  // As a destination.
  uint32_t shards_to_pull = 0;
  uint64_t entries_pulled = 0;
  uint64_t bytes_pulled = 0;
  uint64_t entries_given_up = 0;  // no room here, or not readable at the source
  uint64_t bytes_given_up = 0;
  // As a source: what lies here in shards that others own and have not pulled yet.
  uint64_t entries_left = 0;
  uint64_t bytes_left = 0;
  friend bool operator==(const MigrationProgress&, const MigrationProgress&) = default;
};

struct HeartbeatRequest {
  ServerId id = kNoServer;
  Id128 boot_id;
  MapVersion map;  // that the server has applied
  ServerStats stats{};
  // Ascending: shards of which it has pulled all that the source holds which `map` names in the
  // row. At most limits::kMaxPulledShards; repeated until the row has no source any more.
  std::vector<uint32_t> pulled_shards{};
  MigrationProgress migration{};
  // Since an answer of the manager came in. Who speaks and hears nothing is as good as silent.
  uint64_t unanswered_ms = 0;
};
struct HeartbeatReply {
  MapVersion map;               // the newest
  bool register_again = false;  // the manager does not know this boot (any more)
};

// Per second, over the last few heartbeats; what clients read one-sided by their own reports.
struct Rates {
  double hits = 0;
  double misses = 0;
  double puts = 0;
  double evictions = 0;
  double bytes_read = 0;
  double bytes_written = 0;
};

struct NodeStatus {
  ServerRecord record;
  uint32_t shards = 0;
  uint64_t silent_ms = 0;  // since its last word
  MapVersion map;
  ServerStats stats;
  std::string version;
  MigrationProgress migration;
  uint32_t shards_coming = 0;   // rows in which it is the owner and another the source
  uint32_t shards_leaving = 0;  // rows in which it is the source; a drain is over at 0
  Rates rates{};
};
struct ClusterStatus {
  MapVersion map;
  std::string manager_version;
  uint64_t uptime_ms = 0;
  uint64_t watchers = 0;
  std::vector<NodeStatus> nodes;
  std::vector<std::string> namespaces;
  std::string frozen;   // why no server is declared dead now; empty: the map is not frozen
  std::string leader;   // address of the manager that decides; empty: one manager, or none decides
  std::string problem;  // why this manager cannot do its work; empty: it can
  uint32_t replicas = 1;                 // owners that each shard should have
  uint32_t shards_moving = 0;            // shards that an owner is still pulling
  uint32_t shards_under_replicated = 0;  // shards whose entries lie on fewer servers than that
  Rates rates{};                         // of all servers together
  uint64_t unix_ms = 0;                  // wall clock of the manager; 0: it does not say
};

// An option in force, and where its value came from ("flag --listen").
struct OptionText {
  std::string name;
  std::string value;
  std::string source;
};
// What a program says of itself.
struct NodeDescription {
  std::string program;
  std::string version;
  uint64_t unix_ms = 0;  // its wall clock
  std::vector<OptionText> options;
  HostFacts host;
};

// A look at the keys of one data server: from a random place on, until enough are found.
struct SampleKeysRequest {
  Id128 expected_cluster;
  ServerId expected_server = kNoServer;  // kNoServer: any
  std::string name_space;
  std::string prefix;  // of the keys; empty: all
  uint32_t limit = 0;  // at most limits::kMaxSampledKeys
};
struct SampledKey {
  std::string key;
  uint64_t value_bytes = 0;
};
struct SampleKeysReply {
  std::vector<SampledKey> keys;
  uint64_t scanned = 0;   // entries looked at, of any namespace
  bool complete = false;  // all entries of the server were looked at
};

struct DrainReply {
  bool migrates = false;  // false: the moved shards begin empty
  MapVersion map{};       // in which it is so
};

// What happened to the cluster; the numbers are those of proto/manager.proto.
enum class EventKind : uint8_t {
  kManagerStarted = 1,
  kMapAdopted = 2,
  kJoined = 3,
  kReturned = 4,
  kTookOver = 5,
  kReplaced = 6,
  kDied = 7,
  kRemoved = 8,
  kEpoch = 9,
  kFrozen = 10,
  kThawed = 11,
  kDraining = 12,
  kDrained = 13,
  kUndrained = 14,
  kStoreFailed = 15,
  kStoreWorks = 16,
};
std::string_view EventKindName(EventKind kind);  // "joined", ...; "unknown" for other numbers

struct Event {
  uint64_t number = 0;   // counts up from 1 with each start of the manager
  uint64_t unix_ms = 0;  // wall clock of the manager
  EventKind kind = EventKind::kManagerStarted;
  std::string server{};  // name; empty: of the cluster
  MapVersion map{};
  std::string text{};  // for people
};

// Client -> data server, before the first byte of data.
struct HandshakeRequest {
  Id128 expected_cluster;
  ServerId expected_server = kNoServer;  // zero: any
  std::string client_name;               // host:pid, for people
  std::vector<std::string> transports;   // that the client can speak, in its order of preference
};
// A lane of a transport whose ends agree over gRPC before they meet; both blobs are that
// transport's own.
struct OpenLaneRequest {
  std::string transport;
  std::string offer;
};

// Registered memory of a data server, as the transport named it.
struct RegionChunk {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t key = 0;
};
// One road to a data server besides its tcp data port.
struct TransportOffer {
  std::string transport;           // "shm", "verbs"
  std::string endpoint;            // opaque: what that transport's Connect takes; where a lane is
                                   // opened by OpenLane, the control address
  std::vector<RegionChunk> index;  // readable
  std::vector<RegionChunk> data;   // readable and writable
};
// What one-sided readers need to know of a pool, in bytes of its index file.
struct PoolShape {
  uint64_t bucket_count = 0;
  uint64_t buckets_offset = 0;
  uint64_t overflow_offset = 0;
  uint64_t index_bytes = 0;
  uint64_t data_bytes = 0;
};
struct ClearNamespaceRequest {
  Id128 expected_cluster;
  ServerId expected_server = kNoServer;  // kNoServer: any
  uint32_t namespace_id = 0;             // as it came: may be none
};

struct HandshakeReply {
  ServerId server = kNoServer;
  std::string server_name;
  MapVersion map;
  uint64_t incarnation = 0;
  Id128 boot_id;
  uint64_t session = 0;
  std::string transport;               // that always works: "tcp"
  std::string endpoint;                // its address, "host:port"
  std::vector<TransportOffer> offers;  // of the transports that the client has asked for
  PoolShape pool;
  uint64_t layout = 0;  // fingerprint of the pool's layout; 0 when not offered
  uint64_t max_value_bytes = 0;
  uint32_t session_timeout_ms = 0;
  bool takes_read_reports = false;  // protocol::ReadReport; an older server would close the lane
};

}  // namespace simm::rpc
