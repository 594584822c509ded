#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
  std::string version;  // of the program
};
struct RegisterReply {
  ServerId id = kNoServer;
  MapVersion map;
  uint32_t heartbeat_ms = 0;  // how often the manager wants to hear
  uint32_t dead_ms = 0;
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

struct HeartbeatRequest {
  ServerId id = kNoServer;
  Id128 boot_id;
  MapVersion map;  // that the server has applied
  ServerStats stats;
};
struct HeartbeatReply {
  MapVersion map;               // the newest
  bool register_again = false;  // the manager does not know this boot (any more)
};

struct NodeStatus {
  ServerRecord record;
  uint32_t shards = 0;
  uint64_t silent_ms = 0;  // since its last word
  MapVersion map;
  ServerStats stats;
  std::string version;
};
struct ClusterStatus {
  MapVersion map;
  std::string manager_version;
  uint64_t uptime_ms = 0;
  uint64_t watchers = 0;
  std::vector<NodeStatus> nodes;
  std::vector<std::string> namespaces;
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
};

}  // namespace simm::rpc
