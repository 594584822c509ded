#include "common/rpc/convert.h"

#include "common/base/limits.h"

namespace simm::rpc {
namespace {

// A state that this version does not know is one of a newer version: the server is in the map, and
// the rows say what it owns.
ServerState StateOf(int number) {
  const bool known = number >= v1::SERVER_STATE_ALIVE && number <= v1::SERVER_STATE_DRAINING;
  return known ? static_cast<ServerState>(number) : ServerState::kAlive;
}

// Every number that fits stays itself: a kind that this version does not know has no name here.
EventKind KindOf(int number) {
  return number > 0 && number <= UINT8_MAX ? static_cast<EventKind>(number) : EventKind{0};
}

}  // namespace

v1::Id128 ToProto(const Id128& id) {
  v1::Id128 out;
  out.set_high(id.high);
  out.set_low(id.low);
  return out;
}

v1::MapVersion ToProto(const MapVersion& version) {
  v1::MapVersion out;
  *out.mutable_cluster() = ToProto(version.cluster);
  out.set_term(version.term);
  out.set_epoch(version.epoch);
  return out;
}

v1::ServerRecord ToProto(const ServerRecord& record) {
  v1::ServerRecord out;
  out.set_id(record.id);
  out.set_name(record.name);
  *out.mutable_pool_id() = ToProto(record.pool_id);
  out.set_incarnation(record.incarnation);
  *out.mutable_boot_id() = ToProto(record.boot_id);
  out.set_control_address(record.control_address);
  out.set_data_address(record.data_address);
  out.set_zone(record.zone);
  out.set_weight(record.weight);
  out.set_state(static_cast<v1::ServerState>(record.state));
  out.set_capabilities(record.capabilities);
  return out;
}

v1::ServerStats ToProto(const ServerStats& stats) {
  v1::ServerStats out;
  out.set_data_bytes(stats.data_bytes);
  out.set_free_bytes(stats.free_bytes);
  out.set_granted_bytes(stats.granted_bytes);
  out.set_live_bytes(stats.live_bytes);
  out.set_limbo_bytes(stats.limbo_bytes);
  out.set_pinned_bytes(stats.pinned_bytes);
  out.set_live_value_bytes(stats.live_value_bytes);
  out.set_entries(stats.entries);
  out.set_hits(stats.hits);
  out.set_misses(stats.misses);
  out.set_puts(stats.puts);
  out.set_evictions(stats.evictions);
  out.set_bytes_read(stats.bytes_read);
  out.set_bytes_written(stats.bytes_written);
  out.set_connections(stats.connections);
  for (const TransportStatus& entry : stats.transports) {
    v1::TransportStatus* const to = out.add_transports();
    to->set_name(entry.name);
    to->set_offered(entry.offered);
    to->set_reason(entry.reason);
    to->set_connections(entry.connections);
  }
  return out;
}

v1::MigrationProgress ToProto(const MigrationProgress& progress) {
  v1::MigrationProgress out;
  out.set_shards_to_pull(progress.shards_to_pull);
  out.set_entries_pulled(progress.entries_pulled);
  out.set_bytes_pulled(progress.bytes_pulled);
  out.set_entries_given_up(progress.entries_given_up);
  out.set_bytes_given_up(progress.bytes_given_up);
  out.set_entries_left(progress.entries_left);
  out.set_bytes_left(progress.bytes_left);
  return out;
}

v1::Event ToProto(const Event& event) {
  v1::Event out;
  out.set_number(event.number);
  out.set_unix_ms(event.unix_ms);
  out.set_kind(static_cast<v1::EventKind>(event.kind));
  out.set_server(event.server);
  *out.mutable_map() = ToProto(event.map);
  out.set_text(event.text);
  return out;
}

namespace {

v1::Rates ToProto(const Rates& rates) {
  v1::Rates out;
  out.set_hits(rates.hits);
  out.set_misses(rates.misses);
  out.set_puts(rates.puts);
  out.set_evictions(rates.evictions);
  out.set_bytes_read(rates.bytes_read);
  out.set_bytes_written(rates.bytes_written);
  return out;
}

Rates FromProto(const v1::Rates& rates) {
  return {.hits = rates.hits(),
          .misses = rates.misses(),
          .puts = rates.puts(),
          .evictions = rates.evictions(),
          .bytes_read = rates.bytes_read(),
          .bytes_written = rates.bytes_written()};
}

}  // namespace

v1::NodeStatus ToProto(const NodeStatus& node) {
  v1::NodeStatus out;
  *out.mutable_record() = ToProto(node.record);
  out.set_shards(node.shards);
  out.set_silent_ms(node.silent_ms);
  *out.mutable_map() = ToProto(node.map);
  *out.mutable_stats() = ToProto(node.stats);
  out.set_version(node.version);
  *out.mutable_migration() = ToProto(node.migration);
  out.set_shards_coming(node.shards_coming);
  out.set_shards_leaving(node.shards_leaving);
  *out.mutable_rates() = ToProto(node.rates);
  return out;
}

v1::RegisterRequest ToProto(const RegisterRequest& request) {
  v1::RegisterRequest out;
  *out.mutable_expected_cluster() = ToProto(request.expected_cluster);
  out.set_name(request.name);
  *out.mutable_pool_id() = ToProto(request.pool_id);
  out.set_incarnation(request.incarnation);
  *out.mutable_boot_id() = ToProto(request.boot_id);
  out.set_control_address(request.control_address);
  out.set_data_address(request.data_address);
  out.set_zone(request.zone);
  out.set_weight(request.weight);
  out.set_version(request.version);
  out.set_capabilities(request.capabilities);
  if (!request.held.cluster.IsZero()) *out.mutable_held() = ToProto(request.held);
  return out;
}

v1::RegisterReply ToProto(const RegisterReply& reply) {
  v1::RegisterReply out;
  out.set_id(reply.id);
  *out.mutable_map() = ToProto(reply.map);
  out.set_heartbeat_ms(reply.heartbeat_ms);
  out.set_dead_ms(reply.dead_ms);
  out.set_send_map(reply.send_map);
  out.set_retry_ms(reply.retry_ms);
  return out;
}

v1::HeartbeatRequest ToProto(const HeartbeatRequest& request) {
  v1::HeartbeatRequest out;
  out.set_id(request.id);
  *out.mutable_boot_id() = ToProto(request.boot_id);
  *out.mutable_map() = ToProto(request.map);
  *out.mutable_stats() = ToProto(request.stats);
  uint32_t before = 0;
  for (const uint32_t shard : request.pulled_shards) {
    out.add_pulled_shard_gaps(shard - before);
    before = shard;
  }
  *out.mutable_migration() = ToProto(request.migration);
  out.set_unanswered_ms(request.unanswered_ms);
  return out;
}

v1::HeartbeatReply ToProto(const HeartbeatReply& reply) {
  v1::HeartbeatReply out;
  *out.mutable_map() = ToProto(reply.map);
  out.set_register_again(reply.register_again);
  return out;
}

v1::ClusterStatus ToProto(const ClusterStatus& status) {
  v1::ClusterStatus out;
  *out.mutable_map() = ToProto(status.map);
  out.set_manager_version(status.manager_version);
  out.set_uptime_ms(status.uptime_ms);
  out.set_watchers(status.watchers);
  for (const auto& entry : status.nodes) *out.add_nodes() = ToProto(entry);
  for (const std::string& entry : status.namespaces) out.add_namespaces(entry);
  out.set_frozen(status.frozen);
  out.set_leader(status.leader);
  out.set_problem(status.problem);
  out.set_replicas(status.replicas);
  out.set_shards_moving(status.shards_moving);
  out.set_shards_under_replicated(status.shards_under_replicated);
  *out.mutable_rates() = ToProto(status.rates);
  out.set_unix_ms(status.unix_ms);
  return out;
}

v1::HandshakeRequest ToProto(const HandshakeRequest& request) {
  v1::HandshakeRequest out;
  *out.mutable_expected_cluster() = ToProto(request.expected_cluster);
  out.set_expected_server(request.expected_server);
  out.set_client_name(request.client_name);
  for (const std::string& entry : request.transports) out.add_transports(entry);
  return out;
}

namespace {

void ToProto(const std::vector<RegionChunk>& chunks,
             google::protobuf::RepeatedPtrField<v1::RegionChunk>* out) {
  for (const RegionChunk& chunk : chunks) {
    v1::RegionChunk* const entry = out->Add();
    entry->set_offset(chunk.offset);
    entry->set_length(chunk.length);
    entry->set_key(chunk.key);
  }
}

std::vector<RegionChunk> FromProto(
    const google::protobuf::RepeatedPtrField<v1::RegionChunk>& chunks) {
  std::vector<RegionChunk> out;
  for (const v1::RegionChunk& chunk : chunks)
    out.push_back({chunk.offset(), chunk.length(), chunk.key()});
  return out;
}

}  // namespace

v1::HandshakeReply ToProto(const HandshakeReply& reply) {
  v1::HandshakeReply out;
  out.set_server(reply.server);
  out.set_server_name(reply.server_name);
  *out.mutable_map() = ToProto(reply.map);
  out.set_incarnation(reply.incarnation);
  *out.mutable_boot_id() = ToProto(reply.boot_id);
  out.set_session(reply.session);
  out.set_transport(reply.transport);
  out.set_endpoint(reply.endpoint);
  out.set_layout(reply.layout);
  out.set_max_value_bytes(reply.max_value_bytes);
  out.set_session_timeout_ms(reply.session_timeout_ms);
  out.set_takes_read_reports(reply.takes_read_reports);
  for (const TransportOffer& offer : reply.offers) {
    v1::TransportOffer* const entry = out.add_offers();
    entry->set_transport(offer.transport);
    entry->set_endpoint(offer.endpoint);
    ToProto(offer.index, entry->mutable_index());
    ToProto(offer.data, entry->mutable_data());
  }
  v1::PoolShape* const pool = out.mutable_pool();
  pool->set_bucket_count(reply.pool.bucket_count);
  pool->set_buckets_offset(reply.pool.buckets_offset);
  pool->set_overflow_offset(reply.pool.overflow_offset);
  pool->set_index_bytes(reply.pool.index_bytes);
  pool->set_data_bytes(reply.pool.data_bytes);
  return out;
}

Id128 FromProto(const v1::Id128& id) {
  Id128 out;
  out.high = id.high();
  out.low = id.low();
  return out;
}

MapVersion FromProto(const v1::MapVersion& version) {
  MapVersion out;
  out.cluster = FromProto(version.cluster());
  out.term = version.term();
  out.epoch = version.epoch();
  return out;
}

ServerRecord FromProto(const v1::ServerRecord& record) {
  ServerRecord out;
  out.id = record.id();
  out.name = record.name();
  out.pool_id = FromProto(record.pool_id());
  out.incarnation = record.incarnation();
  out.boot_id = FromProto(record.boot_id());
  out.control_address = record.control_address();
  out.data_address = record.data_address();
  out.zone = record.zone();
  out.weight = record.weight();
  out.state = StateOf(record.state());
  out.capabilities = record.capabilities();
  return out;
}

ServerStats FromProto(const v1::ServerStats& stats) {
  ServerStats out;
  out.data_bytes = stats.data_bytes();
  out.free_bytes = stats.free_bytes();
  out.granted_bytes = stats.granted_bytes();
  out.live_bytes = stats.live_bytes();
  out.limbo_bytes = stats.limbo_bytes();
  out.pinned_bytes = stats.pinned_bytes();
  out.live_value_bytes = stats.live_value_bytes();
  out.entries = stats.entries();
  out.hits = stats.hits();
  out.misses = stats.misses();
  out.puts = stats.puts();
  out.evictions = stats.evictions();
  out.bytes_read = stats.bytes_read();
  out.bytes_written = stats.bytes_written();
  out.connections = stats.connections();
  for (const v1::TransportStatus& entry : stats.transports()) {
    out.transports.push_back({entry.name(), entry.offered(), entry.reason(), entry.connections()});
  }
  return out;
}

MigrationProgress FromProto(const v1::MigrationProgress& progress) {
  MigrationProgress out;
  out.shards_to_pull = progress.shards_to_pull();
  out.entries_pulled = progress.entries_pulled();
  out.bytes_pulled = progress.bytes_pulled();
  out.entries_given_up = progress.entries_given_up();
  out.bytes_given_up = progress.bytes_given_up();
  out.entries_left = progress.entries_left();
  out.bytes_left = progress.bytes_left();
  return out;
}

Event FromProto(const v1::Event& event) {
  Event out;
  out.number = event.number();
  out.unix_ms = event.unix_ms();
  out.kind = KindOf(event.kind());
  out.server = event.server();
  out.map = FromProto(event.map());
  out.text = event.text();
  return out;
}

NodeStatus FromProto(const v1::NodeStatus& node) {
  NodeStatus out;
  out.record = FromProto(node.record());
  out.shards = node.shards();
  out.silent_ms = node.silent_ms();
  out.map = FromProto(node.map());
  out.stats = FromProto(node.stats());
  out.version = node.version();
  out.migration = FromProto(node.migration());
  out.shards_coming = node.shards_coming();
  out.shards_leaving = node.shards_leaving();
  out.rates = FromProto(node.rates());
  return out;
}

RegisterRequest FromProto(const v1::RegisterRequest& request) {
  RegisterRequest out;
  out.expected_cluster = FromProto(request.expected_cluster());
  out.name = request.name();
  out.pool_id = FromProto(request.pool_id());
  out.incarnation = request.incarnation();
  out.boot_id = FromProto(request.boot_id());
  out.control_address = request.control_address();
  out.data_address = request.data_address();
  out.zone = request.zone();
  out.weight = request.weight();
  out.version = request.version();
  out.capabilities = request.capabilities();
  out.held = FromProto(request.held());
  return out;
}

RegisterReply FromProto(const v1::RegisterReply& reply) {
  RegisterReply out;
  out.id = reply.id();
  out.map = FromProto(reply.map());
  out.heartbeat_ms = reply.heartbeat_ms();
  out.dead_ms = reply.dead_ms();
  out.send_map = reply.send_map();
  out.retry_ms = reply.retry_ms();
  return out;
}

HeartbeatRequest FromProto(const v1::HeartbeatRequest& request) {
  HeartbeatRequest out;
  out.id = request.id();
  out.boot_id = FromProto(request.boot_id());
  out.map = FromProto(request.map());
  out.stats = FromProto(request.stats());
  uint64_t shard = 0;
  for (const uint32_t gap : request.pulled_shard_gaps()) {
    shard += gap;
    if (shard >= limits::kShards || out.pulled_shards.size() >= limits::kMaxPulledShards) break;
    out.pulled_shards.push_back(static_cast<uint32_t>(shard));
  }
  out.migration = FromProto(request.migration());
  out.unanswered_ms = request.unanswered_ms();
  return out;
}

HeartbeatReply FromProto(const v1::HeartbeatReply& reply) {
  HeartbeatReply out;
  out.map = FromProto(reply.map());
  out.register_again = reply.register_again();
  return out;
}

ClusterStatus FromProto(const v1::ClusterStatus& status) {
  ClusterStatus out;
  out.map = FromProto(status.map());
  out.manager_version = status.manager_version();
  out.uptime_ms = status.uptime_ms();
  out.watchers = status.watchers();
  for (const auto& entry : status.nodes()) out.nodes.push_back(FromProto(entry));
  out.namespaces.assign(status.namespaces().begin(), status.namespaces().end());
  out.frozen = status.frozen();
  out.leader = status.leader();
  out.problem = status.problem();
  if (status.replicas() != 0) out.replicas = status.replicas();
  out.shards_moving = status.shards_moving();
  out.shards_under_replicated = status.shards_under_replicated();
  out.rates = FromProto(status.rates());
  out.unix_ms = status.unix_ms();
  return out;
}

HandshakeRequest FromProto(const v1::HandshakeRequest& request) {
  HandshakeRequest out;
  out.expected_cluster = FromProto(request.expected_cluster());
  out.expected_server = request.expected_server();
  out.client_name = request.client_name();
  out.transports.assign(request.transports().begin(), request.transports().end());
  return out;
}

v1::ClearNamespaceRequest ToProto(const ClearNamespaceRequest& request) {
  v1::ClearNamespaceRequest out;
  *out.mutable_expected_cluster() = ToProto(request.expected_cluster);
  out.set_expected_server(request.expected_server);
  out.set_namespace_id(request.namespace_id);
  return out;
}

ClearNamespaceRequest FromProto(const v1::ClearNamespaceRequest& request) {
  ClearNamespaceRequest out;
  out.expected_cluster = FromProto(request.expected_cluster());
  out.expected_server = request.expected_server();
  out.namespace_id = request.namespace_id();
  return out;
}

HandshakeReply FromProto(const v1::HandshakeReply& reply) {
  HandshakeReply out;
  out.server = reply.server();
  out.server_name = reply.server_name();
  out.map = FromProto(reply.map());
  out.incarnation = reply.incarnation();
  out.boot_id = FromProto(reply.boot_id());
  out.session = reply.session();
  out.transport = reply.transport();
  out.endpoint = reply.endpoint();
  out.layout = reply.layout();
  out.max_value_bytes = reply.max_value_bytes();
  out.session_timeout_ms = reply.session_timeout_ms();
  out.takes_read_reports = reply.takes_read_reports();
  for (const v1::TransportOffer& offer : reply.offers()) {
    out.offers.push_back(
        {offer.transport(), offer.endpoint(), FromProto(offer.index()), FromProto(offer.data())});
  }
  out.pool = {.bucket_count = reply.pool().bucket_count(),
              .buckets_offset = reply.pool().buckets_offset(),
              .overflow_offset = reply.pool().overflow_offset(),
              .index_bytes = reply.pool().index_bytes(),
              .data_bytes = reply.pool().data_bytes()};
  return out;
}

}  // namespace simm::rpc
