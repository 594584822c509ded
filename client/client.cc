#include "client/client.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string>
#include <utility>

#include "client/batch.h"
#include "client/call.h"
#include "client/engine.h"
#include "client/namespace_clear.h"
#include "client/process_totals.h"
#include "common/base/gate.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/routing/key_hash.h"

namespace simm {

using client::Batch;
using protocol::MessageType;

namespace {

// A number for each client that ever was.
uint64_t NextOwner() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

// What one client holds beyond the shared engine: its namespace and options.
class Client::State {
 public:
  std::shared_ptr<client::Engine> engine;
  std::shared_ptr<client::Exporter> exporter;  // if the metrics are shown
  client::BatchContext context;
  const uint64_t owner = NextOwner();
  Gate gate;

  std::vector<KeyResult> Run(Batch& batch);
  void Start(std::unique_ptr<Batch> batch, Done done);
};

namespace {

Status CheckOptions(const ClientOptions& options) {
  if (options.addresses.empty()) {
    return Status(Code::kInvalidArgument,
                  "no address: name at least one manager, such as 127.0.0.1:30001");
  }
  for (const std::string& address : options.addresses) {
    if (const auto parsed = ParsePeer(address); !parsed.ok()) return parsed.status();
  }
  const std::string& name = options.name_space;
  const bool printable =
      std::all_of(name.begin(), name.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (name.empty() || name.size() > limits::kMaxNamespaceNameBytes || !printable) {
    return Status(Code::kInvalidArgument,
                  "namespace '" + name + "' is not 1 to 128 printable characters");
  }
  constexpr std::string_view kTransports[] = {"auto", "shm", "verbs", "tcp"};
  if (std::find(std::begin(kTransports), std::end(kTransports), options.transport) ==
      std::end(kTransports)) {
    return Status(Code::kInvalidArgument, "transport '" + options.transport +
                                              "' is unknown; allowed: auto, shm, verbs, tcp");
  }
  if (options.max_lanes_per_server == 0 || options.max_lanes_per_server > 1024) {
    return Status(Code::kInvalidArgument, "max_lanes_per_server must be 1 to 1024");
  }
  if (options.max_rdma_lanes == 0) {
    return Status(Code::kInvalidArgument, "max_rdma_lanes must be at least 1");
  }
  return Status::Ok();
}

// nullptr: nobody asked for it, or, said in the log, it cannot be had where only the environment
// asks.
Result<std::shared_ptr<client::Exporter>> OpenExporter(const ClientOptions& options) {
  const char* const named = std::getenv("SIMM_METRICS_LISTEN");
  const bool given = !options.metrics_listen.empty();
  const std::string listen = given ? options.metrics_listen : named != nullptr ? named : "";
  if (listen.empty() || listen == "off") return std::shared_ptr<client::Exporter>();
  auto exporter = client::Exporter::Open(listen);
  if (exporter.ok() || given) return exporter;
  SIMM_LOG_WARN("SIMM_METRICS_LISTEN: {}; going on without metrics", exporter.status().message());
  return std::shared_ptr<client::Exporter>();
}

Result<Duration> SlowOp(const ClientOptions& options) {
  constexpr int64_t kDefaultMs = 1000;
  int64_t ms = kDefaultMs;
  std::string_view text;
  if (options.slow_op) {
    ms = options.slow_op->count();
  } else if (const char* const given = std::getenv("SIMM_SLOW_OP_MS"); given != nullptr) {
    text = given;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), ms);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) ms = -1;
  }
  if (ms < 0 || ms > 3'600'000) {
    return Status(Code::kInvalidArgument, "slow_op (SIMM_SLOW_OP_MS) " + std::string(text) +
                                              " is not 0 (off) to 3600000 milliseconds");
  }
  return Duration(std::chrono::milliseconds(ms));
}

// A batch on its way, for the driver. Leaves the client's gate at its end.
class AsyncCall final : public client::AsyncTask {
 public:
  AsyncCall(client::Engine& engine, std::unique_ptr<Batch> batch, uint64_t owner, Gate& gate,
            Done done)
      : batch_(std::move(batch)),
        owner_(owner),
        deadline_(batch_->deadline()),
        call_(engine, batch_->shape(), batch_->items(), deadline_),
        gate_(gate),
        done_(std::move(done)) {}

  uint64_t owner() const override { return owner_; }
  Instant deadline() const override { return deadline_; }
  void Begin(int event_fd) override { call_.Begin(event_fd, /*short_steps=*/true); }
  bool Step() override { return call_.Step(); }
  void AddWaits(client::StepWaits* waits) override { call_.AddWaits(waits); }
  void Cancel() override { call_.Cancel(); }
  void End() override {
    Answer(batch_->TakeResults(call_.trace()));
    gate_.Leave();  // the client may be gone from here on
  }
  // It could not be begun at all.
  void Refuse(Code code) {
    Answer(batch_->AllFailed(code));
    gate_.Leave();
  }

 private:
  void Answer(std::vector<KeyResult> results) {
    batch_.reset();  // registered memory is free to go as soon as `done` knows
    const Done done = std::exchange(done_, nullptr);
    done(std::move(results));
  }

  std::unique_ptr<Batch> batch_;
  const uint64_t owner_;
  const Instant deadline_;
  client::Call call_;
  Gate& gate_;
  Done done_;
};

}  // namespace

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}

Client::~Client() {
  SIMM_CHECK(!state_->engine->async().IsOwnThread(),
             "a client was destroyed by a callback of an asynchronous call");
  state_->gate.Close();
  state_->engine->async().Cancel(state_->owner);
  state_->gate.CloseAndDrain();
}

Result<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  SIMM_RETURN_IF_ERROR(CheckOptions(options));
  const auto slow_op = SlowOp(options);
  if (!slow_op.ok()) return slow_op.status();
  const Instant end = MonotonicClock::Get().Now() + options.connect_timeout;
  auto engine = client::Engine::Open(options);
  if (!engine.ok()) return engine.status();
  const auto table = (*engine)->WaitForServers(options.connect_timeout);
  if (!table.ok()) return table.status();
  const Duration left =
      std::max<Duration>(end - MonotonicClock::Get().Now(), std::chrono::seconds(1));
  const auto id = (*engine)->NamespaceOf(options.name_space, left);
  if (!id.ok()) return id.status();
  if (options.verify == Verify::kOff) {
    SIMM_LOG_WARN(
        "checksums of values are not verified (verify off): a damaged value would go unnoticed");
  }
  auto state = std::make_unique<State>();
  auto exporter = OpenExporter(options);
  if (!exporter.ok()) return exporter.status();
  state->exporter = std::move(*exporter);
  state->context = {.engine = engine->get(),
                    .verify = options.verify,
                    .namespace_id = *id,
                    .namespace_seed = NamespaceSeed(options.name_space),
                    .slow_op = *slow_op};
  state->engine = std::move(*engine);
  return std::unique_ptr<Client>(new Client(std::move(state)));
}

std::vector<KeyResult> Client::State::Run(Batch& batch) {
  GatePass pass(gate);
  SIMM_CHECK(static_cast<bool>(pass), "a call on a client that is being destroyed");
  if (batch.refused()) return batch.AllFailed(Code::kInvalidArgument);
  client::Call call(*engine, batch.shape(), batch.items(), batch.deadline());
  call.Run();
  return batch.TakeResults(call.trace());
}

void Client::State::Start(std::unique_ptr<Batch> batch, Done done) {
  SIMM_CHECK(done, "an asynchronous call needs somebody to tell");
  if (batch->refused()) return done(batch->AllFailed(Code::kInvalidArgument));
  if (!gate.Enter()) return done(batch->AllFailed(Code::kUnavailable));
  auto call = std::make_unique<AsyncCall>(*engine, std::move(batch), owner, gate, std::move(done));
  std::unique_ptr<client::AsyncTask> task = std::move(call);
  if (engine->async().Submit(task)) return;
  client::Add(engine->stats().calls_refused);
  static_cast<AsyncCall*>(task.get())->Refuse(Code::kBusy);
}

std::vector<KeyResult> Client::Put(std::span<const PutItem> items, const PutOptions& options) {
  Batch batch(state_->context, items, options);
  return state_->Run(batch);
}

std::vector<KeyResult> Client::Get(std::span<const GetItem> items, const GetOptions& options) {
  Batch batch(state_->context, items, options);
  return state_->Run(batch);
}

std::vector<KeyResult> Client::Exists(std::span<const std::string_view> keys,
                                      const CallOptions& options) {
  Batch batch(state_->context, MessageType::kExists, keys, options);
  return state_->Run(batch);
}

std::vector<KeyResult> Client::Remove(std::span<const std::string_view> keys,
                                      const CallOptions& options) {
  Batch batch(state_->context, MessageType::kRemove, keys, options);
  return state_->Run(batch);
}

std::vector<KeyResult> Client::Touch(std::span<const std::string_view> keys,
                                     const CallOptions& options) {
  Batch batch(state_->context, MessageType::kTouch, keys, options);
  return state_->Run(batch);
}

Result<uint64_t> Client::ClearNamespace(const CallOptions& options) {
  GatePass pass(state_->gate);
  SIMM_CHECK(static_cast<bool>(pass), "a call on a client that is being destroyed");
  const auto table = state_->engine->Map();
  return client::ClearOnAllServers(*table, state_->context.namespace_id, options.deadline);
}

void Client::PutAsync(std::span<const PutItem> items, const PutOptions& options, Done done) {
  state_->Start(std::make_unique<Batch>(state_->context, items, options), std::move(done));
}

void Client::GetAsync(std::span<const GetItem> items, const GetOptions& options, Done done) {
  state_->Start(std::make_unique<Batch>(state_->context, items, options), std::move(done));
}

void Client::ExistsAsync(std::span<const std::string_view> keys, const CallOptions& options,
                         Done done) {
  state_->Start(std::make_unique<Batch>(state_->context, MessageType::kExists, keys, options),
                std::move(done));
}

void Client::RemoveAsync(std::span<const std::string_view> keys, const CallOptions& options,
                         Done done) {
  state_->Start(std::make_unique<Batch>(state_->context, MessageType::kRemove, keys, options),
                std::move(done));
}

void Client::TouchAsync(std::span<const std::string_view> keys, const CallOptions& options,
                        Done done) {
  state_->Start(std::make_unique<Batch>(state_->context, MessageType::kTouch, keys, options),
                std::move(done));
}

std::vector<PinResult> Client::Pin(std::span<const std::string_view> keys,
                                   const CallOptions& options) {
  const Instant begun = MonotonicClock::Get().Now();
  Batch batch(state_->context, MessageType::kPin, keys, options);
  const std::vector<KeyResult> codes = state_->Run(batch);
  // The server's time began after this call and not later.
  const auto gone = static_cast<uint32_t>(
      std::chrono::ceil<std::chrono::milliseconds>(MonotonicClock::Get().Now() - begun).count());
  std::vector<PinResult> results(codes.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    const uint32_t held = batch.refused() ? 0 : batch.items()[i].pinned_ms;
    results[i] = {codes[i].code, held - std::min(held, gone)};
  }
  return results;
}

Result<MemoryHandle> Client::RegisterMemory(void* data, size_t size) {
  return state_->engine->memory().Register(data, size);
}

Status Client::DeregisterMemory(MemoryHandle handle) {
  return state_->engine->memory().Deregister(handle);
}

KeyLocation Client::Locate(std::string_view key) const {
  const Hash128 hash = HashKey(key, state_->context.namespace_seed);
  const auto table = state_->engine->Map();
  KeyLocation location;
  location.shard = ShardOf(hash);
  location.hash = ToString(Id128{hash.high, hash.low});
  location.epoch = table->version().epoch;
  for (const ShardOwner& owner : table->Owners(location.shard)) {
    const ServerRecord* const record = table->FindServer(owner.server);
    if (record == nullptr) continue;
    const ServerRecord* const from = table->FindServer(owner.source);
    const std::string source = from == nullptr ? "" : from->name;
    if (!location.server.empty()) {
      location.replicas.push_back(record->name);
      location.replica_sources.push_back(source);
      continue;
    }
    location.server = record->name;
    location.address = record->data_address;
    location.source = source;
  }
  return location;
}

std::vector<ServerHealth> Client::Servers() const { return state_->engine->Servers(); }

std::string Client::MetricsAddress() const {
  return state_->exporter ? state_->exporter->address() : std::string();
}

ClientStats Client::Stats() const { return state_->engine->stats().Snapshot(); }

}  // namespace simm
