#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/status.h"
#include "common/protocol/pool_layout.h"

// The small messages of the data plane: fixed little-endian layouts, at most 4 KiB, decoded
// strictly (every length bounded, no byte left over, unknown types and versions refused). Byte
// tables: README.md in this folder.
namespace simm::protocol {

inline constexpr uint8_t kMessageVersion = 1;

enum class MessageType : uint8_t {
  // Two-sided data path (tcp).
  kGet = 1,     // KeysRequest -> GetRecord... (one per value or run of keys without one)
  kExists = 2,  // KeysRequest -> KeysReply
  kRemove = 3,  // KeysRequest -> KeysReply
  kTouch = 4,   // KeysRequest -> KeysReply
  kScrub = 5,   // KeysRequest -> KeysReply: the reader saw a bad checksum; kOk: removed
  kPut = 6,     // PutRequest + payload -> PutReply
  kPing = 7,    // Ping -> kPong
  kList = 8,    // ListRequest -> kListReply: a destination asks the source of its shards
  kGetRecord = 65,
  kKeysReply = 66,
  kPutReply = 67,
  kPong = 68,
  kListReply = 69,
  // One-sided data path: spoken by verbs and shm; lookup, touch slots and pin by tcp as well.
  kLease = 16,       // LeaseRequest -> kLeaseReply
  kCommit = 17,      // CommitRequest -> kPutReply
  kReturn = 18,      // ReturnRequest, no answer
  kResolve = 19,     // ResolveRequest -> kPutReply
  kLookup = 20,      // KeysRequest of exactly one key -> kLocation
  kTouchSlots = 21,  // TouchSlots, no answer
  kPin = 22,         // KeysRequest -> kPinReply
  kReadReport = 23,  // ReadReport, no answer; to servers whose handshake says that they take it
  kLeaseReply = 80,
  kLocation = 81,
  kPinReply = 82,
  kRecall = 96,  // server -> client: Recall, no reply; the client sends kReturn behind its WRITEs
};

// The first byte's type, or kProtocolError when there is none or its version is not ours.
Result<MessageType> TypeOf(ByteSpan body);

struct MapStamp {  // the sender's (term, epoch)
  uint64_t term = 0;
  uint64_t epoch = 0;
};

struct KeyEntry {
  std::string_view key;   // 1 to 256 B; a view into the message when decoded
  uint32_t capacity = 0;  // kGet: bytes of the reader's buffer
};

// KeysRequest::flags
inline constexpr uint8_t kGetAllowShorter = 1;
// Of kGet, kExists, kLookup and kPin to an owner whose shard has a source: kRemoved is told apart
// from kMiss. A server that does not know it answers kMiss.
inline constexpr uint8_t kTellRemoved = 2;
// Of kGet, from the destination of a pull: it is no use of the entries.
inline constexpr uint8_t kForPull = 4;

struct KeysRequest {
  MessageType type = MessageType::kGet;
  uint8_t flags = 0;
  uint16_t namespace_id = 0;
  MapStamp map;
  std::vector<KeyEntry> keys;  // 1 to kMaxKeysPerMessage
};
// Bytes that a key takes in a KeysRequest, and those before the first.
inline constexpr size_t kKeysRequestHeadBytes = 24;
inline constexpr size_t KeyEntryBytes(size_t key_bytes) { return 6 + key_bytes; }

struct GetRecord {
  Code code = Code::kMiss;
  uint16_t index = 0;  // of the first key in the request that this record answers
  uint16_t run = 1;    // how many keys it answers; 1 when kOk
  uint16_t key_bytes = 0;
  uint32_t value_bytes = 0;  // kOk, kLengthMismatch
  uint64_t checksum = 0;
  uint64_t generation = 0;
  MapStamp map;  // of the server
  // kOk: payload = extent head (ExtentHeadBytes(key_bytes)) + value_bytes.
};
inline constexpr size_t kGetRecordBytes = 48;

struct KeysReply {
  MapStamp map;
  std::vector<Code> codes;  // one per key of the request
};

struct PutRequest {
  uint8_t mode = 0;  // 0 if_absent, 1 replace
  uint16_t namespace_id = 0;
  uint32_t value_bytes = 0;  // = payload
  uint32_t ttl_ms = 0;
  uint32_t depth = 0;  // hints
  Hash128 parent;
  MapStamp map;
  std::string_view key;
  // Trailer: XXH3-64 of the payload.
};

struct PutReply {
  Code code = Code::kInternal;
  uint32_t retry_after_ms = 0;
  uint64_t generation = 0;
  MapStamp map;
};

struct Ping {
  uint64_t nonce = 0;
};

// Between data servers: what the source has of the shards that it names `destination` as the owner
// of, hottest first. One listing is under way on a connection; it is begun with cursor 0 and gone
// on with where the last answer says.
struct ListRequest {
  uint32_t destination = 0;  // id in the map
  uint64_t cursor = 0;
  // In force at the destination. A listing is of the rows of exactly this map.
  MapStamp map;
};
struct ListedEntry {
  uint16_t namespace_id = 0;
  uint32_t value_bytes = 0;
  uint64_t checksum = 0;  // XXH3-64 of the value
  uint32_t ttl_ms = 0;    // left; 0: for ever
  uint32_t age_ms = 0;    // since its last use
  std::string_view key;
};
inline constexpr size_t kListReplyHeadBytes = 30;
inline constexpr size_t ListedEntryBytes(size_t key_bytes) { return 24 + key_bytes; }
inline constexpr size_t kMaxListedEntries = 128;  // of one answer
struct ListReply {
  // kOk; kWrongOwner: another map is in force at the source (`map`), ask again when it is here or
  // there; kBusy: too many listings at once, ask again; kMiss: no listing stands at this cursor,
  // begin anew.
  Code code = Code::kInternal;
  bool done = false;    // nothing follows
  uint64_t cursor = 0;  // of the next request
  MapStamp map;         // in force at the source
  // None, and not done: it is still looking, ask again.
  std::vector<ListedEntry> entries;
};

struct LeaseRequest {
  uint64_t extent_bytes = 0;
  uint32_t count = 0;
  uint32_t ahead = 0;     // of these, for later puts: granted within the share of idle leases only
  uint64_t lane_tag = 0;  // the client's name of the lane, the same in all its LEASEs
};
struct LeaseRange {  // `count` extents of extent_bytes, back to back, generations ascending
  uint64_t offset = 0;
  uint64_t first_generation = 0;
  uint64_t extent_bytes = 0;
  uint32_t count = 0;
};
struct LeaseReply {
  Code code = Code::kInternal;
  uint32_t retry_after_ms = 0;
  uint64_t lease = 0;
  uint64_t lane = 0;  // the server's id of this connection, for ResolveRequest; never used twice
  std::vector<LeaseRange> ranges;  // at most kMaxLeaseRanges
};
inline constexpr size_t kMaxLeaseRanges = 128;

struct CommitRequest {
  uint8_t mode = 0;
  uint16_t namespace_id = 0;
  uint32_t value_bytes = 0;
  uint32_t ttl_ms = 0;
  uint32_t depth = 0;
  uint64_t lease = 0;
  uint64_t generation = 0;
  uint64_t offset = 0;
  uint64_t checksum = 0;
  Hash128 parent;
  MapStamp map;
  std::string_view key;
};
struct ReturnRequest {
  uint64_t lease = 0;
  std::vector<LeaseRange> ranges;
  // With lease 0 and no ranges: everything of a lane, nothing of which will be written any more; 0:
  // of the sender's own, else of the one that this process has named so and has closed.
  uint64_t lane_tag = 0;
};
struct Recall {
  uint64_t lease = 0;
};
// Asks what became of a COMMIT on a lane that is given up: the server destroys that lane first.
struct ResolveRequest {
  uint64_t lane = 0;
  uint64_t generation = 0;
  uint16_t namespace_id = 0;
  MapStamp map;
  std::string_view key;
};
struct Location {
  Code code = Code::kMiss;
  uint32_t pinned_ms = 0;    // <= 2000
  uint64_t slot_offset = 0;  // of the slot in the index
  Slot slot;                 // its copy
};
struct SlotTouch {
  uint32_t slot = 0;  // index of the slot
  uint64_t generation = 0;
};
struct TouchSlots {
  std::vector<SlotTouch> touches;  // 1 to kMaxSlotTouches; longer batches are split
};
inline constexpr size_t kMaxSlotTouches = 256;
// What one-sided reads over a lane have come to since its last report: the server sees nothing of
// them. Keys that the server itself has answered (exists by message) are not among them. Any number
// decodes: whoever counts them decides what to believe.
struct ReadTotals {
  uint64_t get_hits = 0;
  uint64_t get_misses = 0;  // values found damaged included
  uint64_t get_length_mismatches = 0;
  uint64_t get_bytes = 0;  // of the values of the hits
  uint64_t exists_hits = 0;
  uint64_t exists_misses = 0;
  uint64_t validation_failures = 0;  // values whose bytes were wrong, served as a miss
  uint64_t validation_retries = 0;   // slots met in flux
  friend bool operator==(const ReadTotals&, const ReadTotals&) = default;
};
// Touches, and what the server is told besides in the same message.
struct ReadReport {
  ReadTotals totals;
  std::vector<SlotTouch> touches;  // 0 to kMaxSlotTouches
};
struct PinReply {
  std::vector<std::pair<Code, uint32_t>> pinned_ms;  // per key of the request
};

// Each Encode appends nothing: it fills `out` (at most limits::kMaxMessageBytes are needed) and
// returns the used part. Broken invariants of the sender (a key too long) are a CHECK: the caller
// has validated.
using MessageBuffer = std::array<std::byte, limits::kMaxMessageBytes>;
ByteSpan Encode(const KeysRequest& m, MessageBuffer& out);
ByteSpan Encode(const GetRecord& m, MessageBuffer& out);
ByteSpan Encode(const KeysReply& m, MessageBuffer& out);
ByteSpan Encode(const PutRequest& m, MessageBuffer& out);
ByteSpan Encode(const PutReply& m, MessageBuffer& out);
ByteSpan EncodePing(const Ping& m, MessageBuffer& out);
ByteSpan EncodePong(const Ping& m, MessageBuffer& out);
ByteSpan Encode(const ListRequest& m, MessageBuffer& out);
ByteSpan Encode(const ListReply& m, MessageBuffer& out);
ByteSpan Encode(const LeaseRequest& m, MessageBuffer& out);
ByteSpan Encode(const LeaseReply& m, MessageBuffer& out);
ByteSpan Encode(const CommitRequest& m, MessageBuffer& out);
ByteSpan Encode(const ReturnRequest& m, MessageBuffer& out);
ByteSpan Encode(const Recall& m, MessageBuffer& out);
ByteSpan Encode(const ResolveRequest& m, MessageBuffer& out);
ByteSpan Encode(const Location& m, MessageBuffer& out);
ByteSpan Encode(const TouchSlots& m, MessageBuffer& out);
ByteSpan Encode(const ReadReport& m, MessageBuffer& out);
ByteSpan Encode(const PinReply& m, MessageBuffer& out);

// Each Decode wants a body of exactly its type; anything else is kProtocolError. Views point into
// `body`.
Status Decode(ByteSpan body, KeysRequest* m);
Status Decode(ByteSpan body, GetRecord* m);
Status Decode(ByteSpan body, KeysReply* m);
Status Decode(ByteSpan body, PutRequest* m);
Status Decode(ByteSpan body, PutReply* m);
Status Decode(ByteSpan body, Ping* m);  // kPing or kPong
Status Decode(ByteSpan body, ListRequest* m);
Status Decode(ByteSpan body, ListReply* m);
Status Decode(ByteSpan body, LeaseRequest* m);
Status Decode(ByteSpan body, LeaseReply* m);
Status Decode(ByteSpan body, CommitRequest* m);
Status Decode(ByteSpan body, ReturnRequest* m);
Status Decode(ByteSpan body, Recall* m);
Status Decode(ByteSpan body, ResolveRequest* m);
Status Decode(ByteSpan body, Location* m);
Status Decode(ByteSpan body, TouchSlots* m);
Status Decode(ByteSpan body, ReadReport* m);
Status Decode(ByteSpan body, PinReply* m);

}  // namespace simm::protocol
