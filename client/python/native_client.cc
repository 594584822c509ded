#include "client/python/native_client.h"

#include <mutex>
#include <set>
#include <utility>

#include "client/python/arguments.h"
#include "client/python/delivery.h"
#include "client/python/process.h"
#include "client/python/results.h"
#include "common/base/gate.h"

namespace nb = nanobind;

namespace simm::python {

// A client that Python has opened, until it is closed: by its object or by the interpreter's exit,
// whichever comes first, or by both at once.
struct OpenClient {
  bool closed = false;  // by the GIL: nothing new begins
  bool ended = false;   // by the GIL: client is gone
  Gate gate;            // of methods that use client
  std::mutex closing;
  std::unique_ptr<Client> client;
};

namespace {

// By the GIL.
std::set<std::shared_ptr<OpenClient>>& Clients() {
  static auto* const clients = new std::set<std::shared_ptr<OpenClient>>;
  return *clients;
}

// With the GIL, which is given up unless there is nothing to end: once the interpreter has gone on
// with its exit, a thread that gave it up would never get it back.
void End(OpenClient& open) {
  open.closed = true;
  if (open.ended) return;
  {
    const GilReleased released;
    open.gate.CloseAndDrain();
    const std::lock_guard lock(open.closing);
    open.client.reset();
  }
  open.ended = true;
}

std::chrono::milliseconds Milliseconds(int64_t ms) { return std::chrono::milliseconds(ms); }

PutOptions PutOptionsOf(int64_t deadline_ms, bool replace, int64_t ttl_ms, uint32_t write_quorum) {
  return {.deadline = Milliseconds(deadline_ms),
          .replace = replace,
          .ttl = Milliseconds(ttl_ms),
          .write_quorum = write_quorum};
}

nb::object List(PyObject* list) {
  if (list == nullptr) throw nb::python_error();
  return nb::steal<nb::object>(list);
}

struct PutBatch {
  PutBatch(nb::handle keys_in, nb::handle addresses_in, nb::handle sizes_in) : keys(keys_in.ptr()) {
    const auto addresses = Numbers(addresses_in.ptr(), keys.size(), "addresses");
    const auto sizes = Numbers(sizes_in.ptr(), keys.size(), "sizes");
    items.reserve(keys.size());
    for (size_t i = 0; i < keys.size(); ++i)
      items.push_back({keys.views()[i], reinterpret_cast<const void*>(addresses[i]), sizes[i]});
  }
  Keys keys;
  std::vector<PutItem> items;
};

struct GetBatch {
  GetBatch(nb::handle keys_in, nb::handle addresses_in, nb::handle sizes_in) : keys(keys_in.ptr()) {
    const auto addresses = Numbers(addresses_in.ptr(), keys.size(), "addresses");
    const auto sizes = Numbers(sizes_in.ptr(), keys.size(), "sizes");
    items.reserve(keys.size());
    for (size_t i = 0; i < keys.size(); ++i)
      items.push_back({keys.views()[i], reinterpret_cast<void*>(addresses[i]), sizes[i]});
  }
  Keys keys;
  std::vector<GetItem> items;
};

// Hands the results and the callback's reference to Python's thread; keeps `batch`, whose keys the
// call borrows, until then.
template <typename Batch>
Done Deliver(std::shared_ptr<Batch> batch, nb::object callback, bool with_bytes) {
  if (PyCallable_Check(callback.ptr()) == 0) throw nb::type_error("callback is not callable");
  return [batch = std::move(batch), raw = callback.release().ptr(),
          with_bytes](std::vector<KeyResult> results) {
    Delivery::Get().Push({raw, std::move(results), with_bytes});
  };
}

}  // namespace

// A method's use of the client, with the GIL given up.
class NativeClient::Use {
 public:
  explicit Use(NativeClient& owner)
      : pass_((Check(owner), owner.open_->gate)), client_(*owner.open_->client) {}
  Client& client() { return client_; }

  // Raises ForkError or ClosedError if there is no client to use.
  static void Check(const NativeClient& owner) {
    if (IsForked()) {
      RaiseNamed("ForkError",
                 "this client was opened before a fork and works in the parent only: open clients "
                 "after the fork, or use multiprocessing's \"spawn\" or \"forkserver\"");
    }
    if (IsLeaving() || owner.open_->closed) RaiseNamed("ClosedError", "this client is closed");
  }

 private:
  GatePass pass_;
  Client& client_;
  GilReleased released_;
};

NativeClient::NativeClient(const ClientOptions& options) : open_(std::make_shared<OpenClient>()) {
  EnterProcess();
  if (IsLeaving()) RaiseNamed("ClosedError", "the interpreter is exiting");
  Delivery::Get().Start();
  Result<std::unique_ptr<Client>> client = [&] {
    const GilReleased released;
    return Client::Connect(options);
  }();
  if (!client.ok()) {
    Raise(static_cast<int>(client.code()), client.status().message().c_str());
  }
  open_->client = std::move(*client);
  Clients().insert(open_);
}

NativeClient::~NativeClient() {
  Clients().erase(open_);
  // The threads that would have to end stayed in the parent; so does all that they share.
  if (IsForked()) {
    (void)open_->client.release();
    return;
  }
  Close();
}

void NativeClient::Close() {
  if (!IsForked()) End(*open_);
}

nb::object NativeClient::Put(nb::handle keys, nb::handle addresses, nb::handle sizes,
                             int64_t deadline_ms, bool replace, int64_t ttl_ms,
                             uint32_t write_quorum) {
  const PutBatch batch(keys, addresses, sizes);
  std::vector<KeyResult> results;
  {
    Use use(*this);
    results =
        use.client().Put(batch.items, PutOptionsOf(deadline_ms, replace, ttl_ms, write_quorum));
  }
  return List(CodeList(results));
}

nb::object NativeClient::Get(nb::handle keys, nb::handle addresses, nb::handle sizes,
                             int64_t deadline_ms, bool allow_shorter) {
  const GetBatch batch(keys, addresses, sizes);
  std::vector<KeyResult> results;
  {
    Use use(*this);
    results = use.client().Get(
        batch.items, {.deadline = Milliseconds(deadline_ms), .allow_shorter = allow_shorter});
  }
  return nb::make_tuple(List(CodeList(results)), List(ByteCountList(results)));
}

std::vector<KeyResult> NativeClient::Run(KeysCall call, nb::handle keys, int64_t deadline_ms) {
  const Keys batch(keys.ptr());
  Use use(*this);
  return (use.client().*call)(batch.views(), {.deadline = Milliseconds(deadline_ms)});
}

nb::object NativeClient::Exists(nb::handle keys, int64_t deadline_ms) {
  return List(CodeList(Run(&Client::Exists, keys, deadline_ms)));
}

nb::object NativeClient::ExistsFlags(nb::handle keys, int64_t deadline_ms) {
  return List(FlagList(Run(&Client::Exists, keys, deadline_ms)));
}

nb::object NativeClient::Remove(nb::handle keys, int64_t deadline_ms) {
  return List(CodeList(Run(&Client::Remove, keys, deadline_ms)));
}

nb::object NativeClient::Touch(nb::handle keys, int64_t deadline_ms) {
  return List(CodeList(Run(&Client::Touch, keys, deadline_ms)));
}

void NativeClient::PutAsync(nb::handle keys, nb::handle addresses, nb::handle sizes,
                            int64_t deadline_ms, bool replace, nb::object callback, int64_t ttl_ms,
                            uint32_t write_quorum) {
  auto batch = std::make_shared<PutBatch>(keys, addresses, sizes);
  Use::Check(*this);
  const std::span<const PutItem> items = batch->items;
  Done done = Deliver(std::move(batch), std::move(callback), false);
  Use use(*this);
  use.client().PutAsync(items, PutOptionsOf(deadline_ms, replace, ttl_ms, write_quorum),
                        std::move(done));
}

void NativeClient::GetAsync(nb::handle keys, nb::handle addresses, nb::handle sizes,
                            int64_t deadline_ms, bool allow_shorter, nb::object callback) {
  auto batch = std::make_shared<GetBatch>(keys, addresses, sizes);
  Use::Check(*this);
  const std::span<const GetItem> items = batch->items;
  Done done = Deliver(std::move(batch), std::move(callback), true);
  Use use(*this);
  use.client().GetAsync(items,
                        {.deadline = Milliseconds(deadline_ms), .allow_shorter = allow_shorter},
                        std::move(done));
}

void NativeClient::Start(AsyncKeysCall call, nb::handle keys, int64_t deadline_ms,
                         nb::object callback) {
  auto batch = std::make_shared<Keys>(keys.ptr());
  Use::Check(*this);
  const std::span<const std::string_view> views = batch->views();
  Done done = Deliver(std::move(batch), std::move(callback), false);
  Use use(*this);
  (use.client().*call)(views, {.deadline = Milliseconds(deadline_ms)}, std::move(done));
}

void NativeClient::ExistsAsync(nb::handle keys, int64_t deadline_ms, nb::object callback) {
  Start(&Client::ExistsAsync, keys, deadline_ms, std::move(callback));
}

void NativeClient::RemoveAsync(nb::handle keys, int64_t deadline_ms, nb::object callback) {
  Start(&Client::RemoveAsync, keys, deadline_ms, std::move(callback));
}

uint64_t NativeClient::ClearNamespace(int64_t deadline_ms) {
  const Result<uint64_t> dropped = [&] {
    Use use(*this);
    return use.client().ClearNamespace({.deadline = Milliseconds(deadline_ms)});
  }();
  if (!dropped.ok()) Raise(static_cast<int>(dropped.code()), dropped.status().message().c_str());
  return *dropped;
}

uint64_t NativeClient::RegisterMemory(uint64_t address, uint64_t size) {
  const Result<MemoryHandle> handle = [&] {
    Use use(*this);
    return use.client().RegisterMemory(reinterpret_cast<void*>(address), size);
  }();
  if (!handle.ok()) Raise(static_cast<int>(handle.code()), handle.status().message().c_str());
  return handle->id;
}

void NativeClient::DeregisterMemory(uint64_t handle) {
  const Status status = [&] {
    Use use(*this);
    return use.client().DeregisterMemory({handle});
  }();
  if (!status.ok()) Raise(static_cast<int>(status.code()), status.message().c_str());
}

nb::list NativeClient::Servers() {
  const std::vector<ServerHealth> servers = [&] {
    Use use(*this);
    return use.client().Servers();
  }();
  nb::list list;
  for (const ServerHealth& server : servers) {
    nb::dict entry;
    entry["name"] = server.name.c_str();
    entry["address"] = server.address.c_str();
    entry["transport"] = server.transport.c_str();
    entry["transport_reason"] = server.transport_reason.c_str();
    entry["breaker"] = server.breaker.c_str();
    entry["connections"] = server.connections;
    list.append(entry);
  }
  return list;
}

nb::dict NativeClient::Stats() {
  const ClientStats stats = [&] {
    Use use(*this);
    return use.client().Stats();
  }();
  nb::dict out;
  const std::pair<const char*, uint64_t> numbers[] = {
      {"gets", stats.gets},
      {"hits", stats.hits},
      {"misses", stats.misses},
      {"puts", stats.puts},
      {"put_failures", stats.put_failures},
      {"exists", stats.exists},
      {"removes", stats.removes},
      {"touches", stats.touches},
      {"errors", stats.errors},
      {"corrupt", stats.corrupt},
      {"bytes_read", stats.bytes_read},
      {"bytes_written", stats.bytes_written},
      {"requests", stats.requests},
      {"round_trips", stats.round_trips},
      {"retries", stats.retries},
      {"breaker_opens", stats.breaker_opens},
      {"breaker_rejections", stats.breaker_rejections},
      {"late_answers", stats.late_answers},
      {"payload_bytes_copied", stats.payload_bytes_copied},
      {"connections_opened", stats.connections_opened},
      {"work_requests", stats.work_requests},
      {"doorbells", stats.doorbells},
      {"completions", stats.completions},
      {"validation_retries", stats.validation_retries},
      {"lookups", stats.lookups},
      {"bounced_values", stats.bounced_values},
      {"calls_refused", stats.calls_refused},
      {"source_hits", stats.source_hits},
      {"replica_hits", stats.replica_hits},
      {"partial_puts", stats.partial_puts},
  };
  for (const auto& [name, number] : numbers) out[name] = number;
  return out;
}

std::string NativeClient::MetricsAddress() {
  Use use(*this);
  return use.client().MetricsAddress();
}

nb::dict NativeClient::Locate(nb::handle key) {
  const Keys keys(nb::make_tuple(key).ptr());
  const KeyLocation location = [&] {
    Use use(*this);
    return use.client().Locate(keys.views()[0]);
  }();
  nb::dict out;
  out["shard"] = location.shard;
  out["server"] = location.server.c_str();
  out["address"] = location.address.c_str();
  out["hash"] = location.hash.c_str();
  nb::list replicas;
  for (const std::string& name : location.replicas) replicas.append(name.c_str());
  out["replicas"] = replicas;
  out["source"] = location.source.c_str();
  nb::list replica_sources;
  for (const std::string& name : location.replica_sources) replica_sources.append(name.c_str());
  out["replica_sources"] = replica_sources;
  out["epoch"] = location.epoch;
  return out;
}

void CloseAll() {
  if (IsForked()) return;
  if (LeaveProcess()) {
    for (const auto& open : std::set<std::shared_ptr<OpenClient>>(Clients())) End(*open);
    // Threads that dropped a client meanwhile are on their way back.
    (void)LeaveProcess();
  }
  Delivery::Get().Stop();
}

}  // namespace simm::python
