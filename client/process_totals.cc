#include "client/process_totals.h"

#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include "client/engine.h"
#include "common/base/version.h"
#include "common/metrics/http_server.h"

namespace simm::client {
namespace {

std::string LowerName(Code code) {
  std::string name(CodeName(code));
  for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return name;
}

void CollectKeys(const OpTotals& ops, ClientOp op, metrics::Sink& sink) {
  for (size_t road = 0; road < kRoads; ++road) {
    for (size_t code = 0; code <= kMaxCode; ++code) {
      const uint64_t n = ops.keys[static_cast<size_t>(op)][road][code];
      // What goes well and what is missed is there from the start, so that a rate has a beginning.
      const bool common =
          static_cast<Road>(road) != Road::kNone &&
          (static_cast<Code>(code) == Code::kOk || static_cast<Code>(code) == Code::kMiss);
      if (n == 0 && !common) continue;
      sink.Counter("simm_client_keys_total",
                   "Keys of calls, by operation, outcome and transport; none: answered without a "
                   "connection, by a breaker or for want of time.",
                   {{"op", std::string(ClientOpName(op))},
                    {"outcome", LowerName(static_cast<Code>(code))},
                    {"transport", std::string(RoadName(static_cast<Road>(road)))}},
                   static_cast<double>(n));
    }
  }
}

void CollectOps(const OpTotals& ops, metrics::Sink& sink) {
  for (size_t i = 0; i < kClientOps; ++i) {
    const auto op = static_cast<ClientOp>(i);
    const metrics::Labels labels = {{"op", std::string(ClientOpName(op))}};
    CollectKeys(ops, op, sink);
    sink.Histogram("simm_client_call_seconds",
                   "Time of one call of a batch, from its arguments to its results.", labels,
                   {kCallBounds.begin(), kCallBounds.end()},
                   {ops.calls[i].counts.begin(), ops.calls[i].counts.end()}, ops.calls[i].seconds);
    if (op != ClientOp::kGet && op != ClientOp::kExists) continue;
    sink.Histogram("simm_client_prefix_hit_keys",
                   "Keys of one call that were there, from the first up to the first that was not.",
                   labels, {kPrefixBounds.begin(), kPrefixBounds.end()},
                   {ops.prefixes[i].counts.begin(), ops.prefixes[i].counts.end()},
                   ops.prefixes[i].keys);
  }
}

void CollectStats(const ClientStats& stats, metrics::Sink& sink) {
  const auto bytes = [&](const char* direction, uint64_t n) {
    sink.Counter("simm_client_value_bytes_total", "Bytes of values that were read or written.",
                 {{"direction", direction}}, static_cast<double>(n));
  };
  bytes("read", stats.bytes_read);
  bytes("written", stats.bytes_written);
  const auto count = [&](const char* name, const char* help, uint64_t n) {
    sink.Counter(name, help, {}, static_cast<double>(n));
  };
  count("simm_client_retries_total",
        "Keys sent again: a stale map, a busy server, a broken connection.", stats.retries);
  count("simm_client_breaker_opens_total", "Times that a data server was given up.",
        stats.breaker_opens);
  count("simm_client_breaker_rejections_total",
        "Keys answered at once since their data server is given up.", stats.breaker_rejections);
  count("simm_client_validation_failures_total", "Values whose bytes were wrong, served as a miss.",
        stats.corrupt);
  count("simm_client_validation_retries_total",
        "One-sided reads that met a slot in flux and looked again.", stats.validation_retries);
  count("simm_client_late_answers_total", "Connections drained or closed after a deadline.",
        stats.late_answers);
  count("simm_client_bounced_values_total", "Values copied since their memory is not registered.",
        stats.bounced_values);
  count("simm_client_copied_bytes_total", "Bytes of values copied in user space.",
        stats.payload_bytes_copied);
  count("simm_client_lookups_total",
        "Keys that a one-sided reader had to ask the data server about.", stats.lookups);
  count("simm_client_requests_total", "Messages sent to data servers.", stats.requests);
  count("simm_client_connections_opened_total", "Data connections opened.",
        stats.connections_opened);
  count("simm_client_lease_hits_total", "Keys put into extents that were at hand.",
        stats.lease_hits);
  count("simm_client_resolves_total", "Puts asked about after their connection broke.",
        stats.resolves);
  count("simm_client_source_hits_total",
        "Keys found where their shard came from, not yet at its owner.", stats.source_hits);
  count("simm_client_replica_hits_total", "Keys found at another owner than the one asked first.",
        stats.replica_hits);
  count("simm_client_partial_puts_total",
        "Keys stored by as many owners as their quorum says, but not by all.", stats.partial_puts);
  count("simm_client_calls_refused_total", "Asynchronous calls refused: too many were waiting.",
        stats.calls_refused);
}

// What is as it is now, of all engines.
struct Present {
  uint64_t open_breakers = 0, closed_breakers = 0;
  std::map<std::pair<std::string, std::string>, uint64_t> lanes;  // by transport and state
  uint64_t registered_bytes = 0;
  std::map<std::string, MapVersion> maps;  // by cluster, the oldest
};

void LookAt(Engine& engine, Present* all) {
  for (const auto& peer : engine.Peers()) {
    ++(peer->BreakerOpen() ? all->open_breakers : all->closed_breakers);
    for (const LaneCount& lanes : peer->Lanes()) {
      all->lanes[{lanes.transport, "idle"}] += lanes.idle;
      all->lanes[{lanes.transport, "busy"}] += lanes.busy;
      all->lanes[{lanes.transport, "opening"}] += lanes.opening;
    }
  }
  all->registered_bytes += engine.memory().bytes();
  const auto table = engine.Map();
  if (table == nullptr) return;
  const MapVersion& version = table->version();
  const auto [it, inserted] = all->maps.emplace(ToString(version.cluster), version);
  if (!inserted && (version.term != it->second.term ? version.term < it->second.term
                                                    : version.epoch < it->second.epoch)) {
    it->second = version;
  }
}

void CollectPresent(const Present& all, metrics::Sink& sink) {
  const auto breakers = [&](const char* state, uint64_t n) {
    sink.Gauge("simm_client_breakers", "Data servers by the state of their circuit breaker.",
               {{"state", state}}, static_cast<double>(n));
  };
  breakers("closed", all.closed_breakers);
  breakers("open", all.open_breakers);
  for (const char* transport : {"tcp", "shm", "verbs"}) {
    for (const char* state : {"idle", "busy", "opening"}) {
      const auto it = all.lanes.find({transport, state});
      sink.Gauge("simm_client_connections", "Data connections by transport and state.",
                 {{"transport", transport}, {"state", state}},
                 it == all.lanes.end() ? 0 : static_cast<double>(it->second));
    }
  }
  sink.Gauge("simm_client_registered_bytes", "The program's memory that is registered.", {},
             static_cast<double>(all.registered_bytes));
  for (const auto& [cluster, version] : all.maps) {
    sink.Gauge("simm_client_map_epoch", "Epoch of the key map in use.", {{"cluster_id", cluster}},
               static_cast<double>(version.epoch));
    sink.Gauge("simm_client_map_term", "Term of the key map in use.", {{"cluster_id", cluster}},
               static_cast<double>(version.term));
  }
}

struct PortRange {
  std::string host;
  uint16_t first = 0, last = 0;
};

Result<PortRange> ParseRange(const std::string& listen) {
  const Status wrong(
      Code::kInvalidArgument,
      "metrics address '" + listen + "' is not HOST:PORT (0: any free port) or HOST:FIRST-LAST");
  const size_t colon = listen.rfind(':');
  if (colon == std::string::npos || colon == 0) return wrong;
  PortRange range;
  range.host = listen.substr(0, colon);
  const char* at = listen.data() + colon + 1;
  const char* const end = listen.data() + listen.size();
  auto parsed = std::from_chars(at, end, range.first);
  if (parsed.ec != std::errc()) return wrong;
  range.last = range.first;
  if (parsed.ptr != end) {
    if (*parsed.ptr != '-' || range.first == 0) return wrong;
    parsed = std::from_chars(parsed.ptr + 1, end, range.last);
    if (parsed.ec != std::errc() || parsed.ptr != end || range.last < range.first) return wrong;
  }
  return range;
}

}  // namespace

ProcessTotals& ProcessTotals::Get() {
  static ProcessTotals* const totals = new ProcessTotals;
  return *totals;
}

void ProcessTotals::Add(Engine* engine) {
  MutexLock lock(mutex_);
  engines_.insert(engine);
}

void ProcessTotals::Remove(Engine* engine) {
  MutexLock lock(mutex_);
  if (engines_.erase(engine) == 0) return;
  gone_.stats.Add(engine->stats().Snapshot());
  engine->ops().AddTo(&gone_.ops);
}

void ProcessTotals::Collect(metrics::Sink& sink) {
  MutexLock lock(mutex_);
  Counted all = gone_;
  Present present;
  for (Engine* const engine : engines_) {
    all.stats.Add(engine->stats().Snapshot());
    engine->ops().AddTo(&all.ops);
    LookAt(*engine, &present);
  }
  CollectOps(all.ops, sink);
  CollectStats(all.stats, sink);
  CollectPresent(present, sink);
}

class Exporter::State {
 public:
  metrics::Registry registry;
  std::unique_ptr<metrics::HttpServer> server;
};

Exporter::Exporter(std::unique_ptr<State> state) : state_(std::move(state)) {}
Exporter::~Exporter() = default;
const std::string& Exporter::address() const { return state_->server->address(); }

Result<std::shared_ptr<Exporter>> Exporter::Open(const std::string& listen) {
  static Mutex mutex;
  static std::map<std::string, std::weak_ptr<Exporter>> exporters;
  const auto range = ParseRange(listen);
  if (!range.ok()) return range.status();
  MutexLock lock(mutex);
  if (auto exporter = exporters[listen].lock()) return exporter;
  auto state = std::make_unique<State>();
  metrics::AddProcessMetrics(state->registry, "simm-client", kVersion);
  state->registry.AddCollector([](metrics::Sink& sink) { ProcessTotals::Get().Collect(sink); });
  Status status;
  for (uint32_t port = range->first; port <= range->last; ++port) {
    auto server = metrics::HttpServer::Start({.address = range->host + ":" + std::to_string(port),
                                              .ready = {},
                                              .flag = "the metrics address (metrics_listen, "
                                                      "SIMM_METRICS_LISTEN, --http)"},
                                             state->registry);
    if (server.ok()) {
      state->server = std::move(*server);
      std::shared_ptr<Exporter> exporter(new Exporter(std::move(state)));
      exporters[listen] = exporter;
      return exporter;
    }
    status = server.status();
  }
  return status;
}

}  // namespace simm::client
