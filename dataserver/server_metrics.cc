#include "common/base/limits.h"
#include "dataserver/server.h"

namespace simm::dataserver {
namespace {

std::string LowerName(Code code) {
  std::string name(CodeName(code));
  for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return name;
}

constexpr DataRoad kRoads[] = {DataRoad::kTcp, DataRoad::kShm, DataRoad::kVerbs};

void CollectKeys(const DataMetrics& data, DataRoad road, DataOp op, metrics::Sink& sink) {
  for (uint8_t code = 0; code <= kMaxCode; ++code) {
    const uint64_t n = data.Keys(road, op, static_cast<Code>(code));
    // The two common outcomes over tcp are there from the start, the rest once it has happened.
    if (n == 0 && (road != DataRoad::kTcp || code > static_cast<uint8_t>(Code::kMiss))) continue;
    sink.Counter("simm_dataserver_keys_total",
                 "Keys answered, by operation, outcome and transport; those read one-sided by what "
                 "their readers report.",
                 {{"op", std::string(DataOpName(op))},
                  {"outcome", LowerName(static_cast<Code>(code))},
                  {"transport", std::string(DataRoadName(road))}},
                 static_cast<double>(n));
  }
}

void CollectRequests(const DataMetrics& data, metrics::Sink& sink) {
  for (size_t op = 0; op < kDataOps; ++op) {
    const auto data_op = static_cast<DataOp>(op);
    const std::string name(DataOpName(data_op));
    for (const DataRoad road : kRoads) {
      if (op < kKeyOps) CollectKeys(data, road, data_op, sink);
    }
    const DataMetrics::Latency& latency = data.latency(data_op);
    std::vector<uint64_t> counts;
    for (const auto& bucket : latency.buckets)
      counts.push_back(bucket.load(std::memory_order_relaxed));
    sink.Histogram("simm_dataserver_request_seconds",
                   "Time of one request, from its last byte in to its last byte out.",
                   {{"op", name}},
                   {DataMetrics::kLatencyBounds.begin(), DataMetrics::kLatencyBounds.end()}, counts,
                   static_cast<double>(latency.nanos.load(std::memory_order_relaxed)) * 1e-9);
  }
  const auto count = [&](const char* name, const char* help, const std::atomic<uint64_t>& value) {
    sink.Counter(name, help, {}, static_cast<double>(value.load(std::memory_order_relaxed)));
  };
  count("simm_dataserver_value_bytes_written_total", "Bytes of values stored by puts.",
        data.value_bytes_in);
  count("simm_dataserver_connections_accepted_total", "Data connections accepted.",
        data.connections_accepted);
  count("simm_dataserver_connections_refused_total", "Data connections refused for their number.",
        data.connections_refused);
  count("simm_dataserver_protocol_errors_total", "Data connections closed for what they sent.",
        data.protocol_errors);
  count("simm_dataserver_stalled_closed_total",
        "Data connections closed because no byte moved within a message.", data.stalled_closed);
  count("simm_dataserver_abandoned_puts_total",
        "Puts whose connection ended before their last byte.", data.abandoned_puts);
  count("simm_dataserver_leased_extents_total", "Extents leased to remote writers.",
        data.leased_extents);
  count("simm_dataserver_leases_refused_total", "Leases refused: too much is leased, or no room.",
        data.leases_refused);
  count("simm_dataserver_returned_extents_total", "Leased extents returned unused.",
        data.returned_extents);
  count("simm_dataserver_abandoned_extents_total", "Leased extents freed with lane or process.",
        data.abandoned_extents);
  count("simm_dataserver_orphaned_lanes_total",
        "Lanes closed whose extents wait for the end of their process.", data.orphaned_lanes);
  count("simm_dataserver_recalls_total", "Leases recalled.", data.recalls);
  count("simm_dataserver_recalls_unanswered_total",
        "Lanes destroyed because a recall was not answered.", data.recalls_unanswered);
  count("simm_dataserver_resolves_total", "Questions after puts on lanes given up.", data.resolves);
  count("simm_dataserver_lookups_total", "Locations asked by message.", data.lookups);
  count("simm_dataserver_pins_total", "Values held for a time.", data.pins);
  count("simm_dataserver_pins_refused_total", "Values not held: too much is held already.",
        data.pins_refused);
  count("simm_dataserver_slot_touches_total", "Uses reported by one-sided readers.",
        data.slot_touches);
  count("simm_dataserver_read_reports_total",
        "Messages in which one-sided readers tell what they have read.", data.read_reports);
  count("simm_dataserver_read_reports_cut_total",
        "Of these, those that told of more than can be read in the time; counted is what can.",
        data.read_reports_cut);
  count("simm_dataserver_validation_failures_total",
        "Values that one-sided readers have found damaged, as they report.",
        data.validation_failures);
  count("simm_dataserver_validation_retries_total",
        "Slots that one-sided readers have met in flux, as they report.", data.validation_retries);
}

void CollectRoads(const DataMetrics& data, metrics::Sink& sink) {
  for (const DataRoad road : kRoads) {
    const std::string transport(DataRoadName(road));
    sink.Counter("simm_dataserver_value_bytes_read_total",
                 "Bytes of values sent to readers, or read by them one-sided, as they report.",
                 {{"transport", transport}}, static_cast<double>(data.BytesOut(road)));
    for (size_t i = 0; i < kConnectionStates; ++i) {
      const auto state = static_cast<ConnectionState>(i);
      sink.Gauge("simm_dataserver_connections",
                 "Open data connections; idle: keepalives only, stalled: no byte of a request or "
                 "an answer moves.",
                 {{"state", std::string(ConnectionStateName(state))}, {"transport", transport}},
                 static_cast<double>(data.Connections(road, state)));
    }
  }
}

void CollectEvictionTimes(const EvictionStats& stats, metrics::Sink& sink) {
  const auto time = [&](const char* path, const auto& steps) {
    sink.Histogram("simm_pool_eviction_seconds",
                   "Time of one step that evicted something: of the evictor, its wait for the "
                   "pool's lock included, or on the path of a put.",
                   {{"path", path}}, {kEvictionTimeBounds.begin(), kEvictionTimeBounds.end()},
                   {steps.counts.begin(), steps.counts.end()}, steps.seconds);
  };
  time("evictor", stats.evictor_steps);
  time("put", stats.inline_steps);
  sink.Histogram("simm_pool_eviction_age_seconds",
                 "Time since the last use of an entry when it was evicted.", {},
                 {kEvictionAgeBounds.begin(), kEvictionAgeBounds.end()},
                 {stats.ages.counts.begin(), stats.ages.counts.end()}, stats.ages.seconds);
}

void CollectPool(const Pool& pool, metrics::Sink& sink) {
  const PoolUsage usage = pool.Usage();
  const auto state = [&](const char* name, uint64_t bytes) {
    sink.Gauge("simm_pool_bytes", "Bytes of the data file by state; the states add up to its size.",
               {{"state", name}}, static_cast<double>(bytes));
  };
  state("free", usage.free_bytes);
  state("granted", usage.granted_bytes);
  state("live", usage.live_bytes);
  state("limbo", usage.limbo_bytes);
  state("pinned", usage.pinned_bytes);
  const auto gauge = [&](const char* name, const char* help, uint64_t value) {
    sink.Gauge(name, help, {}, static_cast<double>(value));
  };
  gauge("simm_pool_held_bytes",
        "Bytes that readers hold, live or pinned: they can not be evicted now.", usage.held_bytes);
  gauge("simm_pool_data_bytes", "Size of the data file.", usage.data_bytes);
  gauge("simm_pool_index_bytes", "Size of the index file.", pool.geometry().index_bytes);
  gauge("simm_pool_value_bytes", "Bytes of live values, without heads and padding.",
        usage.live_value_bytes);
  gauge("simm_pool_entries", "Live entries.", usage.entries);
  gauge("simm_pool_slots", "Slots of the index.", usage.slots);
  gauge("simm_pool_overflow_entries", "Live entries in the overflow area.", usage.overflow_entries);
  const PoolCounters counters = pool.Counters();
  for (size_t cause = 0; cause < kEvictionCauses; ++cause) {
    sink.Counter("simm_pool_evictions_total", "Entries evicted, by cause.",
                 {{"cause", std::string(EvictionCauseName(static_cast<EvictionCause>(cause)))}},
                 static_cast<double>(counters.evictions[cause]));
  }
  sink.Counter("simm_pool_evictions_total", "Entries evicted, by cause.", {{"cause", "expired"}},
               static_cast<double>(counters.expired));
  const auto count = [&](const char* name, const char* help, uint64_t value) {
    sink.Counter(name, help, {}, static_cast<double>(value));
  };
  count("simm_pool_evicted_bytes_total", "Bytes of evicted entries.", counters.evicted_bytes);
  count("simm_pool_inline_evictions_total", "Entries evicted on the put path.",
        counters.inline_evictions);
  count("simm_pool_busy_total", "Puts refused because no memory could be freed.", counters.busy);
  count("simm_pool_dropped_total",
        "Entries dropped: their shard has another owner, or their namespace was cleared.",
        counters.dropped);
  count("simm_pool_touches_total", "Uses reported to the eviction policy.", counters.touches);
  CollectEvictionTimes(counters.eviction_stats, sink);
  sink.Gauge("simm_pool_last_evicted_age_seconds",
             "Time since its last use of the entry evicted last.", {},
             static_cast<double>(counters.last_evicted_age_ms) * 1e-3);
}

void CollectRecovery(const PoolRecovery& recovery, metrics::Sink& sink) {
  const auto gauge = [&](const char* name, const char* help, double value) {
    sink.Gauge(name, help, {}, value);
  };
  gauge("simm_pool_warm_start", "1 when this start has taken over the entries of the last one.",
        recovery.warm ? 1 : 0);
  gauge("simm_pool_recovered_entries", "Entries that this start has taken over.",
        static_cast<double>(recovery.entries));
  gauge("simm_pool_recovered_bytes", "Bytes of their values.",
        static_cast<double>(recovery.value_bytes));
  gauge("simm_pool_recovered_grants", "Extents that were granted and stayed so.",
        static_cast<double>(recovery.granted));
  gauge("simm_pool_recovery_seconds", "Time that this took.", ToSeconds(recovery.took));
  for (size_t cause = 0; cause < kDropCauses; ++cause) {
    sink.Gauge("simm_pool_recovery_dropped", "Entries that this start has dropped, by cause.",
               {{"cause", std::string(DropCauseName(static_cast<DropCause>(cause)))}},
               static_cast<double>(recovery.dropped[cause]));
  }
}

}  // namespace

void Server::CollectMigration(metrics::Sink& sink) const {
  const rpc::MigrationProgress progress = migrator_->Progress();
  for (size_t i = 0; i < kPullOutcomes; ++i) {
    const auto outcome = static_cast<PullOutcome>(i);
    sink.Counter("simm_dataserver_migration_entries_total",
                 "Entries that sources of this server's shards have told of, by what became of "
                 "them; no_room and damaged are given up.",
                 {{"outcome", std::string(PullOutcomeName(outcome))}},
                 static_cast<double>(migrator_->Entries(outcome)));
  }
  const auto count = [&](const char* name, const char* help, double value) {
    sink.Counter(name, help, {}, value);
  };
  count("simm_dataserver_migration_pulled_bytes_total", "Bytes of values pulled from sources.",
        static_cast<double>(progress.bytes_pulled));
  count("simm_dataserver_migration_given_up_bytes_total",
        "Bytes of values that were not pulled for want of room, or damaged at the source.",
        static_cast<double>(progress.bytes_given_up));
  count("simm_dataserver_migration_failures_total", "Pulls that ended early and are tried again.",
        static_cast<double>(migrator_->failures()));
  count("simm_dataserver_migration_seconds_total", "Time spent pulling, of all sources at once.",
        ToSeconds(migrator_->time_pulling()));
  const auto gauge = [&](const char* name, const char* help, uint64_t value) {
    sink.Gauge(name, help, {}, static_cast<double>(value));
  };
  gauge("simm_dataserver_migration_shards_left", "Shards that are still to be pulled.",
        progress.shards_to_pull);
  gauge("simm_dataserver_migration_entries_leaving",
        "Entries here of shards that others own and have not pulled yet.", progress.entries_left);
  gauge("simm_dataserver_migration_bytes_leaving", "Bytes of their values.", progress.bytes_left);
  gauge("simm_dataserver_migration_listings", "Listings under way for destinations.",
        data_metrics_.listings.load(std::memory_order_relaxed));
  gauge("simm_pool_tombstones", "Slots that say a key was removed while its shard was pulled.",
        pool_->Usage().tombstones);
}

void Server::Collect(metrics::Sink& sink) const {
  CollectRequests(data_metrics_, sink);
  CollectRoads(data_metrics_, sink);
  CollectPool(*pool_, sink);
  CollectRecovery(pool_->recovery(), sink);
  CollectMigration(sink);
  sink.Gauge("simm_dataserver_sessions", "Clients with an open session.", {},
             static_cast<double>(sessions_->size()));
  for (const DataRoad road : kRoads) {
    uint64_t bytes = 0;
    for (const Roads::Registered& one : roads_.RegisteredMemory())
      bytes += DataRoadOf(one.transport) == road ? one.bytes : 0;
    sink.Gauge("simm_dataserver_registered_bytes",
               "Memory of the pool that peers reach by themselves, by transport.",
               {{"transport", std::string(DataRoadName(road))}}, static_cast<double>(bytes));
  }
  if (const auto table = map_.Get()) {
    sink.Gauge("simm_dataserver_map_term", "Term of the map in force.", {},
               static_cast<double>(table->version().term));
    sink.Gauge("simm_dataserver_map_epoch", "Epoch of the map in force.", {},
               static_cast<double>(table->version().epoch));
    sink.Gauge("simm_dataserver_shards", "Shards owned by the map in force.", {},
               static_cast<double>(table->ShardsOf(self_.load())));
  }
  sink.Gauge("simm_dataserver_ready", "1 when the server is in the cluster and serves.", {},
             Ready().ok() ? 1 : 0);
}

}  // namespace simm::dataserver
