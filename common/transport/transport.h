#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/status.h"

// The shelf on which the transports stand as siblings (tcp, shm, verbs; sim and chaos for tests):
// one contract, one contract suite (tests/contract). It knows neither gRPC nor keys.
//
// The law of ownership: after Post, the memory that a WorkItem names belongs to the transport until
// that item's completion, which arrives exactly once, even when the peer dies. Receivers lend
// memory for arriving payload in the same way: until OnMessageEnd or OnClosed.
//
// Ordering: items of one connection start in the order posted. A message arrives after all messages
// posted before it. The receipt of a message proves that Writes posted before it on the same
// connection are placed. Nothing orders a Read against another Read: whoever needs that waits for
// the first one's completion. See README.md in this folder.
namespace simm::transport {

struct Capabilities {
  std::string_view transport;       // its name, as Transport::name
  bool one_sided = false;           // Read and Write without the peer's CPU
  bool payload = false;             // messages may carry payload straight between memories
  size_t max_message_bytes = 0;     // of a body
  bool needs_registration = false;  // local memory of one-sided items must be registered
  bool write_taps = false;          // the processor copies for kWrite, which may have a tap
};

// What peers may do with registered memory; a set of bits.
enum Access : uint8_t { kLocalOnly = 0, kRemoteRead = 1, kRemoteWrite = 2 };

// Memory of the peer: a list of chunks, in ascending offset without gaps; an access that crosses
// chunks is split by the transport.
struct RemoteChunk {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t key = 0;
};
struct RemoteRegion {
  std::vector<RemoteChunk> chunks;
};

// Registered local memory. Deregisters on destruction; the transport that issued it must outlive
// it.
class LocalRegion {
 public:
  virtual ~LocalRegion() = default;
  virtual MutableByteSpan memory() const = 0;
  // What a peer needs to reach it; no chunks when it was registered kLocalOnly.
  virtual RemoteRegion Describe() const = 0;
};

struct MutableSegment {
  std::byte* data = nullptr;
  size_t size = 0;
  const LocalRegion* region = nullptr;  // required where needs_registration
};
struct ConstSegment {
  const std::byte* data = nullptr;
  size_t size = 0;
  const LocalRegion* region = nullptr;
};

// Told once how an item ended. Called from Progress (or from Close and the destructor, with
// kUnavailable), never from Post. May post further items; must not destroy the connection.
class Completion {
 public:
  virtual ~Completion() = default;
  virtual void OnComplete(const Status& status) = 0;
};

// Sees payload bytes in order while they are warm in the cache: to hash them. For outgoing payload,
// each piece just before it is handed to the network; the value of Trailer is sent behind the
// payload. For kWrite (where write_taps): all bytes of `local`, each piece before it is copied; no
// trailer.
class PayloadTap {
 public:
  virtual ~PayloadTap() = default;
  virtual void OnBytes(ByteSpan bytes) = 0;
  virtual uint64_t Trailer() = 0;
};

struct Message {
  uint64_t request_id = 0;
  ByteSpan body;                          // copied by Post
  std::span<const ConstSegment> payload;  // the array is copied by Post, the memory is lent
  PayloadTap* tap = nullptr;              // outgoing; nullptr: no trailer
};

enum class Op : uint8_t { kRead, kWrite, kSend };

// One piece of work. For kRead and kWrite: `local` (the array is copied by Post, the memory is
// lent) from or to remote_offset of *remote, which must outlive the completion. completion ==
// nullptr: covered by the next item of the same Post that has one (selective signalling): its
// success proves this one's, and this one's failure fails it. The last item must have one.
struct WorkItem {
  Op op = Op::kSend;
  std::span<const MutableSegment> local;
  const RemoteRegion* remote = nullptr;
  uint64_t remote_offset = 0;
  PayloadTap* tap = nullptr;  // kWrite
  Message message;
  Completion* completion = nullptr;
};

// Where arriving payload goes: up to four segments, filled in order; what does not fit is
// discarded.
struct PayloadTarget {
  static constexpr size_t kMaxSegments = 4;
  MutableSegment segments[kMaxSegments];
  size_t count = 0;
};

// The reader's side of a connection. All calls come from Progress, one at a time, except OnClosed,
// which may come from Close as well.
class Receiver {
 public:
  virtual ~Receiver() = default;
  // A body has arrived; `payload_bytes` follow. The body is valid during the call only.
  virtual PayloadTarget OnMessage(uint64_t request_id, ByteSpan body, uint64_t payload_bytes) = 0;
  // Payload has landed in the target: contiguous bytes within one segment, in order. Not called for
  // discarded bytes.
  virtual void OnPayload(ByteSpan landed) { (void)landed; }
  // The message is complete. The lent memory is the receiver's again.
  virtual void OnMessageEnd(uint64_t request_id, std::optional<uint64_t> trailer) = 0;
  // No further call follows. Called exactly once. A message that was under way is lost: memory lent
  // to it is the receiver's again. kUnavailable: the peer is gone; kProtocolError: it spoke
  // garbage.
  virtual void OnClosed(const Status& why) = 0;
};

// What Progress and Post have done, for tests and metrics.
struct ConnectionCounters {
  uint64_t work_requests = 0;  // items handed to the network
  uint64_t doorbells = 0;      // Post calls that handed over at least one
  uint64_t completions = 0;
  uint64_t messages_in = 0;
  uint64_t messages_out = 0;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
  uint64_t bytes_copied = 0;  // of payload, in user space
  uint64_t system_calls = 0;
};

// Identifies both ends on every frame: a peer of another session or incarnation is refused.
struct SessionTag {
  uint64_t session = 0;
  uint64_t incarnation = 0;
};

// The process behind a connection whose writes cannot be cut off (shared memory). Thread-safe.
class PeerProcess {
 public:
  struct Identity {
    uint32_t pid = 0;         // as this process sees it; 0: not known
    uint64_t start_time = 0;  // as /proc says it, in clock ticks since the boot; 0: not known
  };
  virtual ~PeerProcess() = default;
  // It has exited and its mappings are gone.
  virtual bool Ended() const = 0;
  virtual std::string Name() const = 0;  // "pid 4711", for people
  // What tells it from a later process of its number; for records that outlive this process.
  virtual Identity identity() const { return {}; }
};

// A lane to one peer. Thread-compatible: its owner serialises all calls. Nothing happens but in
// Post, Progress and Close; whoever waits polls PollFd for PollEvents and calls Progress.
class Connection {
 public:
  virtual ~Connection() = default;  // closes

  virtual const Capabilities& capabilities() const = 0;
  // Once, before anything else: who hears what arrives. Borrowed; must outlive the connection.
  virtual void Start(Receiver* receiver) = 0;
  // All items under one doorbell. Refused as a whole (nothing is posted, no completion comes) with
  // kInvalidArgument (a body too long, an op without its capability, a range outside the region),
  // kFailedPrecondition (an accepted lane whose peer has not spoken yet: its tag is not known) or
  // kUnavailable (closed).
  virtual Status Post(std::span<const WorkItem> items) = 0;
  // How many messages would leave now without waiting for the peer to consume earlier ones; what is
  // posted behind one that waits, waits too. SIZE_MAX: no such limit.
  virtual size_t MessageCredit() const { return SIZE_MAX; }
  // Moves what can be moved without waiting; false once closed.
  virtual bool Progress() = 0;
  // The same for an owner that is not about to sleep: spares what makes PollFd readable again.
  // Before it waits on PollFd it calls Progress.
  virtual bool ProgressAwake() { return Progress(); }
  // For poll(2): a descriptor, and POLLIN | POLLOUT as wanted now. -1: call Progress again and
  // again. It may wake once more for what Progress has found already.
  virtual int PollFd() const = 0;
  virtual short PollEvents() const = 0;
  // Back-pressure: while paused no further message is begun. Progress must be called after
  // resuming.
  virtual void PauseReceive(bool paused) = 0;
  // Takes back the memory lent to the payload that is arriving now, if any: the rest of it is
  // discarded. For a receiver that has run out of time; after it returns the transport does not
  // touch that memory.
  virtual void DiscardPayload() = 0;
  // Fails what is under way with kUnavailable (completions, OnClosed) and lets go of the network.
  // After it returns nothing touches lent memory. Idempotent.
  virtual void Close() = 0;
  virtual bool closed() const = 0;
  virtual std::string PeerName() const = 0;  // "127.0.0.1:4711", for people
  // Of this lane: given to Connect, or carried by the peer's first frame (zero before it).
  virtual SessionTag Tag() const = 0;
  virtual const ConnectionCounters& counters() const = 0;
  // Set where the peer may go on writing to memory that it was given, even after Close: such memory
  // is safe to reuse only once the peer has given it back or this process has ended. nullptr: after
  // Close nothing of the peer can reach this side's memory through this lane any more.
  virtual std::shared_ptr<PeerProcess> peer_process() const { return nullptr; }
};

// The check of a new peer's tag, made on its first frame. Called on the thread that drives the
// connection.
using SessionCheck = std::function<Status(const SessionTag&)>;

// Takes connections from peers. Thread-compatible.
class Acceptor {
 public:
  virtual ~Acceptor() = default;
  virtual int PollFd() const = 0;
  // One waiting peer, or nullptr when there is none now, or none can be taken: then errno says why
  // (EMFILE ...). Its receiver is given with Start.
  virtual std::unique_ptr<Connection> Accept() = 0;
  virtual std::string Address() const = 0;  // bound; what Connect takes
};

// One of the siblings on the shelf. Thread-safe.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string_view name() const = 0;  // "tcp"
  virtual const Capabilities& capabilities() const = 0;
  // What it runs on, for people: "rxe0 port 1, 192.168.77.1"; empty where the name says it all.
  virtual std::string Medium() const { return {}; }
  // kInvalidArgument: empty memory. kUnavailable: the system refuses (limits); the message says
  // which and the mend.
  virtual Result<std::unique_ptr<LocalRegion>> Register(MutableByteSpan memory, uint8_t access) = 0;
  // Opens a lane to `endpoint` (the peer acceptor's Address, or the blob of the handshake), waiting
  // until `timeout` at the latest. kUnavailable: nobody there, or the time ran out;
  // kInvalidArgument: not an endpoint.
  virtual Result<std::unique_ptr<Connection>> Connect(const std::string& endpoint, SessionTag tag,
                                                      Duration timeout) = 0;
  // Waits for peers at `endpoint`. kUnavailable: it is taken; the message names `flag`, the option
  // to change.
  virtual Result<std::unique_ptr<Acceptor>> Listen(const std::string& endpoint,
                                                   const std::string& flag, SessionCheck check) = 0;
  // Where lanes are bootstrapped over another road: the answer of the acceptor at `endpoint` to a
  // client's offer, which the owner brings and takes back. kFailedPrecondition: not this transport;
  // kUnavailable: nobody listens there; or why the offer is refused.
  virtual Result<std::string> Answer(const std::string& endpoint, const std::string& offer) {
    (void)offer;
    return Status(Code::kFailedPrecondition,
                  std::string(name()) + " at " + endpoint + " takes no offers: connect to it");
  }
};

}  // namespace simm::transport
