#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/options.h"
#include "common/base/status.h"

// The front door of SiMM for programs: put, get, exists, remove and touch batches of keys. This
// header and what it includes are free of gRPC, protobuf and abseil.
namespace simm {

// How one key of a batch ended.
struct KeyResult {
  Code code = Code::kInternal;
  // Get: bytes written to the buffer when kOk, the stored length when kLengthMismatch. Put: the
  // value's length.
  uint64_t value_bytes = 0;
  uint32_t retry_after_ms = 0;  // with kBusy
};

struct PutItem {
  std::string_view key;        // 1 to 256 B, any bytes
  const void* data = nullptr;  // borrowed until the call returns
  uint64_t size = 0;           // bytes; 0 to 1 GiB
  // Hints for eviction, stored beside the value: the key that precedes this one in its chain
  // (empty: none; longer than 256 B: kTooLarge) and the number of keys before it.
  std::string_view parent = {};
  uint32_t depth = 0;
};

struct GetItem {
  std::string_view key;
  void* data = nullptr;  // borrowed until the call returns; undefined content unless kOk
  uint64_t size = 0;     // bytes of the buffer
};

// How one key of a Pin ended.
struct PinResult {
  Code code = Code::kInternal;
  // With kOk: the value is not evicted for at least so long after the return; at most 2,000. 0: it
  // is there, but not held (too much is held already). Who removes or replaces it does not wait.
  uint32_t pinned_ms = 0;
};

struct CallOptions {
  // The call returns at the latest 50 ms after this long; what has not ended by then is
  // kDeadlineExceeded for puts, a miss for gets and exists. Nothing touches the caller's memory
  // after the return.
  std::chrono::milliseconds deadline{5'000};
};

struct PutOptions {
  std::chrono::milliseconds deadline{5'000};  // as CallOptions
  // false: a key that is there keeps its value and the result is kExists. true: the value is
  // replaced.
  bool replace = false;
  // The value is gone at the latest 1 s after this long, and may be evicted before; 0: never. A key
  // that is there keeps its own time unless it is replaced. At most 49 days, not negative, else
  // kInvalidArgument.
  std::chrono::milliseconds ttl{0};
  // In a cluster with replicas: how many owners must have stored the value for kOk or kExists; it
  // is sent to all of them, and the call ends when each has answered or is known to be away.
  // `replace` (and Remove) need all, whatever this says. 1 to 3, and not more than the cluster has
  // replicas, else kInvalidArgument.
  uint32_t write_quorum = 1;
};

struct GetOptions {
  std::chrono::milliseconds deadline{5'000};  // as CallOptions
  // false: a value of another length than the buffer is kLengthMismatch. true: shorter values are
  // accepted and value_bytes says how long.
  bool allow_shorter = false;
};

// Memory known to the transports, for copies without a bounce. Unregister before freeing it.
struct MemoryHandle {
  uint64_t id = 0;
};

// Since the engine's start; all clients of a process that share an engine share the numbers.
struct ClientStats {
  uint64_t gets = 0, hits = 0, misses = 0;
  uint64_t puts = 0, put_failures = 0;
  uint64_t exists = 0, removes = 0, touches = 0;
  uint64_t errors = 0;   // keys that ended in neither an answer nor a miss
  uint64_t corrupt = 0;  // values that failed validation, served as a miss
  uint64_t bytes_read = 0, bytes_written = 0;
  uint64_t requests = 0;     // messages sent
  uint64_t round_trips = 0;  // server exchanges: one per server and call without retries
  uint64_t retries = 0;      // keys sent again: stale map, busy, a broken idle connection
  uint64_t breaker_opens = 0, breaker_rejections = 0;
  uint64_t late_answers = 0;          // lanes drained or closed after a deadline
  uint64_t payload_bytes_copied = 0;  // in user space
  uint64_t connections_opened = 0;
  // Of the connections: items handed to the network, hand-overs, completions.
  uint64_t work_requests = 0, doorbells = 0, completions = 0;
  uint64_t validation_retries = 0;  // one-sided reads that met a slot in flux and looked again
  uint64_t lookups = 0;             // keys that a one-sided reader had to ask the server about
  uint64_t bounced_values = 0;      // copied, since their memory is not registered
  uint64_t calls_refused = 0;       // asynchronous ones: too many were waiting
  uint64_t lease_hits = 0;          // keys put by one-sided writes into extents that were at hand
  uint64_t resolves = 0;            // puts asked about after their lane broke
  uint64_t pins = 0;                // keys
  uint64_t source_hits = 0;         // keys found where their shard came from, not yet at its owner
  uint64_t replica_hits = 0;        // keys found at another owner than the one asked first
  uint64_t partial_puts = 0;  // keys stored by as many owners as the quorum says, but not by all

  void Add(const ClientStats& other);  // field by field
};

// Where a key lives.
struct KeyLocation {
  uint32_t shard = 0;
  std::string server;   // name; empty when no server owns it
  std::string address;  // data address
  std::string hash;     // 32 hexadecimal digits
  // Names: the further owners, with replicas; and where the shard comes from while it moves to
  // `server`, and to each of `replicas` (empty: it does not move there).
  std::vector<std::string> replicas;
  std::string source;
  std::vector<std::string> replica_sources;
  uint64_t epoch = 0;  // of the map that says so
};

struct ServerHealth {
  std::string name;
  std::string address;
  std::string transport;         // "shm", "verbs", "tcp"; empty before the first connection
  std::string transport_reason;  // why that one
  std::string breaker;           // "closed", "open"
  uint32_t connections = 0;
};

// Takes the results of an asynchronous call, one for each item in the order of the items.
using Done = std::function<void(std::vector<KeyResult> results)>;

// Thread-safe. All clients of a process with the same addresses and transport share one engine
// (connections, map, breakers). Fork before Connect, never after.
//
// Batches are split by owner and run in parallel; `results[i]` belongs to item i. A batch may hold
// 0 to 65,536 keys and the same key several times. Data calls never throw and never block beyond
// their deadline.
class Client {
 public:
  // kInvalidArgument: an option that can never work. kUnavailable: nobody answered within
  // connect_timeout; the message says which addresses were tried and what to check.
  static Result<std::unique_ptr<Client>> Connect(const ClientOptions& options);
  // Waits for blocking calls in flight. Ends asynchronous ones as if their deadlines were now and
  // returns when the last `done` has returned. Not from a `done`.
  ~Client();

  // Per key: kOk, kExists (not replaced; the value there is kept), kInvalidArgument, kTooLarge,
  // kBusy, kUnavailable, kDeadlineExceeded. After the last two it is not known whether the value is
  // stored; a replacement may even be stored later, over one that has begun since.
  std::vector<KeyResult> Put(std::span<const PutItem> items, const PutOptions& options = {});
  // Per key: kOk, kMiss (also: its server is away or the time ran out), kLengthMismatch,
  // kInvalidArgument. At most item.size bytes are written.
  std::vector<KeyResult> Get(std::span<const GetItem> items, const GetOptions& options = {});
  // Per key: kOk, kMiss (also: its server is away), kInvalidArgument. Counts as a use of the key.
  std::vector<KeyResult> Exists(std::span<const std::string_view> keys,
                                const CallOptions& options = {});
  // Per key: kOk (it was there), kMiss, kInvalidArgument, kUnavailable, kDeadlineExceeded.
  std::vector<KeyResult> Remove(std::span<const std::string_view> keys,
                                const CallOptions& options = {});
  // Marks keys as recently used, the first key most recently: give a prefix chain from its start.
  // Per key as Exists.
  std::vector<KeyResult> Touch(std::span<const std::string_view> keys,
                               const CallOptions& options = {});

  // Drops everything that is stored in this client's namespace, on every data server, while others
  // read and write; how many entries that were. What is put meanwhile may stay. kUnavailable,
  // kDeadlineExceeded: not every data server has done it; the message says which. Repeat it then.
  Result<uint64_t> ClearNamespace(const CallOptions& options = {});

  // The five data calls without waiting: the method returns at once, and `done` is told the results
  // that the blocking one would have returned, by the same deadline (counted from here).
  //
  // - `items` is copied. What it points to, keys, values and buffers, is lent until `done` is
  // called;
  //   when it is called nothing touches that memory any more.
  // - `done` is called exactly once, also when the client is destroyed meanwhile, on one of the few
  //   threads that drive all asynchronous calls of the process to this cluster. It must not throw,
  //   and while it runs other calls wait for that thread: it must not block (no blocking call of a
  //   client, no waiting for another `done`) and should take microseconds. It may begin further
  //   calls. It is destroyed right after it has returned.
  // - Calls end in any order. A few hundred are under way at a time (limits::kMaxAsyncCalls); later
  //   ones wait for their turn in the order in which they came, within their deadlines.
  // - Refused as a whole, `done` is called by the method itself, before it returns: more than
  // 65,536
  //   keys (kInvalidArgument); too many calls are waiting (limits::kMaxQueuedAsyncCalls; kBusy for
  //   writers, a miss for readers; Stats().calls_refused); begun by a `done` while the client is
  //   being destroyed (kUnavailable, a miss for readers).
  void PutAsync(std::span<const PutItem> items, const PutOptions& options, Done done);
  void GetAsync(std::span<const GetItem> items, const GetOptions& options, Done done);
  void ExistsAsync(std::span<const std::string_view> keys, const CallOptions& options, Done done);
  void RemoveAsync(std::span<const std::string_view> keys, const CallOptions& options, Done done);
  void TouchAsync(std::span<const std::string_view> keys, const CallOptions& options, Done done);
  // For those who look first and load later: per key whether it is there, and for how long its
  // value is held. A pin ends with its time or with this process's session at the server; pinning
  // again extends it. Counts as a use, of the first key most recently. Codes per key as Exists.
  std::vector<PinResult> Pin(std::span<const std::string_view> keys,
                             const CallOptions& options = {});

  // kInvalidArgument: no memory, or overlaps a registered range.
  Result<MemoryHandle> RegisterMemory(void* data, size_t size);
  // kInvalidArgument: unknown handle. kFailedPrecondition: operations on it are in flight.
  Status DeregisterMemory(MemoryHandle handle);

  KeyLocation Locate(std::string_view key) const;
  std::vector<ServerHealth> Servers() const;
  ClientStats Stats() const;
  // Where this process shows its metrics, HOST:PORT; empty: nowhere (see ClientOptions).
  std::string MetricsAddress() const;

 private:
  class State;
  explicit Client(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace simm
