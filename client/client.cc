#include "client/client.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "client/call.h"
#include "client/engine.h"
#include "common/base/gate.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/routing/key_hash.h"

namespace simm {

using client::Add;
using client::CallItem;
using client::CallShape;
using protocol::MessageType;

// What one client holds beyond the shared engine: its namespace and options.
class Client::State {
 public:
  std::shared_ptr<client::Engine> engine;
  ClientOptions options;
  NamespaceId namespace_id = 0;
  uint64_t namespace_seed = 0;
  Gate gate;

  CallShape Shape(MessageType type) const {
    CallShape shape;
    shape.type = type;
    shape.verify = options.verify;
    shape.namespace_id = namespace_id;
    return shape;
  }
  void Prepare(CallItem& item, std::string_view key) const {
    item.key = key;
    if (key.empty() || key.size() > limits::kMaxKeyBytes) {
      item.result.code = key.empty() ? Code::kInvalidArgument : Code::kTooLarge;
      item.done = true;
      return;
    }
    item.hash = HashKey(key, namespace_seed);
  }
  std::vector<KeyResult> Run(CallShape shape, std::vector<CallItem>& items,
                             std::chrono::milliseconds deadline);
  std::vector<KeyResult> RunKeys(MessageType type, std::span<const std::string_view> keys,
                                 const CallOptions& options);
  void Count(MessageType type, const std::vector<CallItem>& items) const;
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
  return Status::Ok();
}

// Refuses a batch that no call may hold: every item with the same code.
std::vector<KeyResult> AllFailed(size_t n, Code code) {
  return std::vector<KeyResult>(n, KeyResult{.code = code});
}

}  // namespace

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}

Client::~Client() { state_->gate.CloseAndDrain(); }

Result<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  SIMM_RETURN_IF_ERROR(CheckOptions(options));
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
  state->engine = std::move(*engine);
  state->options = options;
  state->namespace_id = *id;
  state->namespace_seed = NamespaceSeed(options.name_space);
  return std::unique_ptr<Client>(new Client(std::move(state)));
}

std::vector<KeyResult> Client::State::Run(CallShape shape, std::vector<CallItem>& items,
                                          std::chrono::milliseconds deadline) {
  const MessageType type = shape.type;
  GatePass pass(gate);
  SIMM_CHECK(static_cast<bool>(pass), "a call on a client that is being destroyed");
  const auto bounded = std::clamp<std::chrono::milliseconds>(deadline, std::chrono::milliseconds(0),
                                                             std::chrono::hours(1));
  client::Call(*engine, std::move(shape), items, MonotonicClock::Get().Now() + bounded).Run();
  Count(type, items);
  std::vector<KeyResult> results;
  results.reserve(items.size());
  for (const CallItem& item : items) results.push_back(item.result);
  return results;
}

void Client::State::Count(MessageType type, const std::vector<CallItem>& items) const {
  auto& stats = engine->stats();
  uint64_t ok = 0, missed = 0, errors = 0;
  for (const CallItem& item : items) {
    const Code code = item.result.code;
    ok += code == Code::kOk || code == Code::kExists ? 1 : 0;
    missed += code == Code::kMiss ? 1 : 0;
    errors += code != Code::kOk && code != Code::kExists && code != Code::kMiss ? 1 : 0;
  }
  Add(stats.errors, errors);
  switch (type) {
    case MessageType::kGet:
      Add(stats.gets, items.size());
      Add(stats.hits, ok);
      Add(stats.misses, missed);
      break;
    case MessageType::kPut:
      Add(stats.puts, items.size());
      Add(stats.put_failures, errors);
      break;
    case MessageType::kExists:
      Add(stats.exists, items.size());
      break;
    case MessageType::kRemove:
      Add(stats.removes, items.size());
      break;
    default:
      Add(stats.touches, items.size());
      break;
  }
}

std::vector<KeyResult> Client::Put(std::span<const PutItem> puts, const PutOptions& options) {
  if (puts.size() > limits::kMaxBatchKeys || options.ttl.count() != 0) {
    return AllFailed(puts.size(), Code::kInvalidArgument);
  }
  std::vector<CallItem> items(puts.size());
  // A key that stands several times in a batch is sent once: the first of its values, or with
  // replace the last. `repeats` names the others and the one that was sent.
  std::unordered_map<std::string_view, size_t> sent_of;
  std::vector<size_t> repeats;
  std::vector<uint64_t> in_use;
  for (size_t i = 0; i < puts.size(); ++i) {
    CallItem& item = items[i];
    state_->Prepare(item, puts[i].key);
    item.value = static_cast<const std::byte*>(puts[i].data);
    item.size = puts[i].size;
    if (!item.done && item.size > limits::kMaxValueBytes) {
      item.result.code = Code::kTooLarge;
      item.done = true;
    } else if (!item.done && item.value == nullptr && item.size > 0) {
      item.result.code = Code::kInvalidArgument;
      item.done = true;
    }
    if (item.done) continue;
    const auto [it, inserted] = sent_of.emplace(item.key, i);
    if (inserted) continue;
    const size_t other = options.replace ? std::exchange(it->second, i) : i;
    repeats.push_back(other);
    items[other].done = true;
  }
  if (!state_->engine->memory().empty()) {
    for (size_t i = 0; i < puts.size(); ++i) {
      const auto use = state_->engine->memory().BeginUse(puts[i].data, puts[i].size);
      items[i].region = use.region;
      in_use.push_back(use.id);
    }
  }
  CallShape shape = state_->Shape(MessageType::kPut);
  shape.replace = options.replace;
  auto results = state_->Run(shape, items, options.deadline);
  for (const uint64_t id : in_use) state_->engine->memory().EndUse(id);
  for (const size_t repeat : repeats) {
    results[repeat] = results[sent_of.at(puts[repeat].key)];
    if (!options.replace && results[repeat].code == Code::kOk) results[repeat].code = Code::kExists;
  }
  return results;
}

std::vector<KeyResult> Client::Get(std::span<const GetItem> gets, const GetOptions& options) {
  if (gets.size() > limits::kMaxBatchKeys) return AllFailed(gets.size(), Code::kInvalidArgument);
  std::vector<CallItem> items(gets.size());
  std::vector<uint64_t> in_use;
  for (size_t i = 0; i < gets.size(); ++i) {
    CallItem& item = items[i];
    state_->Prepare(item, gets[i].key);
    item.buffer = static_cast<std::byte*>(gets[i].data);
    item.size = gets[i].size;
    if (!item.done && item.buffer == nullptr && item.size > 0) {
      item.result.code = Code::kInvalidArgument;
      item.done = true;
    }
  }
  if (!state_->engine->memory().empty()) {
    for (size_t i = 0; i < gets.size(); ++i) {
      const auto use = state_->engine->memory().BeginUse(gets[i].data, gets[i].size);
      items[i].region = use.region;
      in_use.push_back(use.id);
    }
  }
  CallShape shape = state_->Shape(MessageType::kGet);
  shape.allow_shorter = options.allow_shorter;
  auto results = state_->Run(shape, items, options.deadline);
  for (const uint64_t id : in_use) state_->engine->memory().EndUse(id);
  return results;
}

std::vector<KeyResult> Client::State::RunKeys(MessageType type,
                                              std::span<const std::string_view> keys,
                                              const CallOptions& call) {
  if (keys.size() > limits::kMaxBatchKeys) return AllFailed(keys.size(), Code::kInvalidArgument);
  std::vector<CallItem> items(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) Prepare(items[i], keys[i]);
  return Run(Shape(type), items, call.deadline);
}

std::vector<KeyResult> Client::Exists(std::span<const std::string_view> keys,
                                      const CallOptions& options) {
  return state_->RunKeys(MessageType::kExists, keys, options);
}

std::vector<KeyResult> Client::Remove(std::span<const std::string_view> keys,
                                      const CallOptions& options) {
  return state_->RunKeys(MessageType::kRemove, keys, options);
}

std::vector<KeyResult> Client::Touch(std::span<const std::string_view> keys,
                                     const CallOptions& options) {
  return state_->RunKeys(MessageType::kTouch, keys, options);
}

Result<MemoryHandle> Client::RegisterMemory(void* data, size_t size) {
  return state_->engine->memory().Register(data, size);
}

Status Client::DeregisterMemory(MemoryHandle handle) {
  return state_->engine->memory().Deregister(handle);
}

KeyLocation Client::Locate(std::string_view key) const {
  const Hash128 hash = HashKey(key, state_->namespace_seed);
  const auto table = state_->engine->Map();
  KeyLocation location;
  location.shard = ShardOf(hash);
  location.hash = ToString(Id128{hash.high, hash.low});
  const ServerId owner = table->Owners(location.shard).front().server;
  if (const ServerRecord* const record = table->FindServer(owner)) {
    location.server = record->name;
    location.address = record->data_address;
  }
  return location;
}

std::vector<ServerHealth> Client::Servers() const { return state_->engine->Servers(); }

ClientStats Client::Stats() const { return state_->engine->stats().Snapshot(); }

}  // namespace simm
