#pragma once

#include <cstdint>
#include <string_view>

namespace simm {

// Outcome codes. The numbers travel on the wire and in metrics: never renumber, never reuse.
enum class Code : uint8_t {
  kOk = 0,
  kMiss = 1,                 // the key is not there; a normal answer
  kExists = 2,               // if_absent put of a key that is there; success for immutable values
  kInvalidArgument = 3,      // the caller's arguments can never work
  kTooLarge = 4,             // key or value beyond a limit, or value beyond the pool
  kLengthMismatch = 5,       // the stored value has another length than the caller's buffer
  kDeadlineExceeded = 6,     // time ran out; the buffers are the caller's again
  kUnavailable = 7,          // the peer cannot be reached now
  kBusy = 8,                 // no memory or slot at this moment; retry after the time given
  kWrongOwner = 9,           // by the server's map it does not own that key's shard
  kLeaseGone = 10,           // the granted extent is no longer the writer's; start the put anew
  kCorrupt = 11,             // bytes failed their checksum or the stored key is another
  kWrongCluster = 12,        // the peer belongs to another cluster
  kProtocolError = 13,       // the peer said what the protocol does not allow
  kFailedPrecondition = 14,  // the state of the system forbids it; the message says which
  kInternal = 15,
  // Not there because it was removed, or replaced, since this owner took the shard over: what the
  // source of the shard still has of the key does not count. Said only to readers that have asked
  // to be told (protocol::kTellRemoved); to programs it is kMiss.
  kRemoved = 16,
};
inline constexpr uint8_t kMaxCode = 16;

// What a caller does about a code. The one table; see code.cc.
enum class Reaction : uint8_t {
  kDone,        // an answer: nothing to do
  kRetry,       // the same call again, after a pause
  kRefreshMap,  // fetch a newer map, then again
  kFallBack,    // treat the server as gone: gets miss, puts fail for that key
  kGiveUp,      // the same call can never work
};

// "MISS", "DEADLINE_EXCEEDED"; stable, used in logs, metrics (lower case there) and JSON.
std::string_view CodeName(Code code);
Reaction ReactionTo(Code code);

}  // namespace simm
