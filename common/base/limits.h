#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

// Every bound of the system in one place: queues, messages, caches, waits. A bound is checked on
// both sides of a wire.
namespace simm::limits {

using namespace std::chrono_literals;

inline constexpr size_t kMaxKeyBytes = 256;
inline constexpr uint64_t kMaxValueBytes = 1ULL << 30;
inline constexpr size_t kMaxBatchKeys = 1 << 16;  // of one client call; split into messages
inline constexpr size_t kMaxNamespaceNameBytes = 128;
inline constexpr size_t kMaxNamespaces = 1 << 16;  // the id is 16 bits in slot and extent
inline constexpr size_t kMaxServerNameBytes = 128;
inline constexpr uint32_t kShards = 65536;
inline constexpr size_t kMaxServers = 4096;
// Bytes of one pool: 64 PiB; a sum of kMaxServers of them fits 128 bits.
inline constexpr uint64_t kMaxServerWeight = 1ULL << 56;
inline constexpr size_t kMaxReplicas = 3;

// A message's body. Bounded by what a receive buffer of a shared receive queue holds (DESIGN 2).
inline constexpr size_t kMaxMessageBytes = 4096;
// Keys of one message, whatever their size: bounds the work between two looks at the other sockets.
inline constexpr size_t kMaxKeysPerMessage = 128;

// Client.
inline constexpr size_t kMaxLanesPerServer = 16;  // connections of one process to one server
inline constexpr size_t kMaxAsyncCalls = 256;     // of an engine under way; more wait in order
inline constexpr size_t kMaxQueuedAsyncCalls = 1 << 16;  // beyond it they are refused
inline constexpr size_t kMaxAsyncThreads = 4;
inline constexpr auto kDefaultDeadline = 5s;
inline constexpr auto kConnectTimeout = 1s;
inline constexpr auto kHealBackoffMin = 20ms;  // full jitter between these two
inline constexpr auto kHealBackoffMax = 500ms;
inline constexpr auto kWayRetryMin = 2s;  // until a way that failed is tried again, doubling
inline constexpr auto kWayRetryMax = 60s;
inline constexpr auto kStaleMapPause = 20ms;          // DESIGN 3: 10 to 50 ms
inline constexpr uint64_t kDrainBytes = 64ULL << 20;  // of a late answer, else the lane is closed
inline constexpr auto kKeepalive = 1s;
inline constexpr auto kReadReport = 1s;  // longest that a lane keeps counts of reads to itself
inline constexpr uint64_t kWaveBytes = 16ULL << 20;  // of values in one step of a one-sided batch
inline constexpr uint64_t kIdleLeaseBytes =
    kWaveBytes;                                      // granted ahead that one lane keeps at most
inline constexpr uint64_t kAheadBytes = 1ULL << 20;  // of small values, whatever was used last
inline constexpr auto kAheadPause = 1s;              // after the server has refused to lease ahead
inline constexpr auto kLaneTending = 250ms;    // how often an idle lane with leases is looked at
inline constexpr size_t kMaxLostLanes = 1024;  // that broke and are still to be disowned

inline constexpr uint64_t kSharedWaveBytes = 2ULL << 20;   // the same for gets over shared memory
inline constexpr uint64_t kHashedBeforeCopy = 1ULL << 20;  // values of a put over shared memory
inline constexpr size_t kRdmaLanesPerServer = 4;  // queue pairs of one process to one server
inline constexpr size_t kMaxBounceBuffers = 16;   // of kWaveBytes each

// Data server.
inline constexpr auto kSessionTimeout = 10s;
inline constexpr size_t kMaxConnections = 16384;
inline constexpr uint64_t kReplyWindowBytes =
    16ULL << 20;  // pinned for one connection's answer at a time
inline constexpr size_t kReplyWindowItems = 64;
inline constexpr size_t kMaxUnreadReplies = 256;  // of one connection, beyond which it is not read
inline constexpr auto kStalledPeer = 10s;         // no byte moved within a frame or an answer
inline constexpr auto kDataTick = 250ms;          // how often the data port looks at its clocks
inline constexpr auto kActiveConnection = 2s;     // since it asked something: longer is idle

// What one lane can read at most, in a second: a bucket takes some 100 ns of a core, and neither a
// copying thread nor a port of 400 Gb/s moves 64 GiB. A report of more is cut down to it.
inline constexpr uint64_t kLaneKeysPerSecond = 1 << 24;
inline constexpr uint64_t kLaneBytesPerSecond = 1ULL << 36;
inline constexpr auto kReportedAtOnce = 60s;  // of reading that one report may tell of

// Migration.
inline constexpr size_t kMaxListings = 256;           // under way at a source
inline constexpr size_t kPullThreads = 4;             // sources that are pulled from at once
inline constexpr uint64_t kPullBatchBytes = 8 << 20;  // fetched with one request, or one value
inline constexpr auto kPullStalled = 5s;              // no byte of an answer: the source is left
inline constexpr auto kPullRetryMin = 50ms;
inline constexpr auto kPullRetryMax = 2s;

// Leases, lanes and pins of a data server's one-sided peers.
inline constexpr uint32_t kMaxLeaseExtents = 1024;  // of one LEASE
inline constexpr size_t kMaxLeasesPerLane = 256;
inline constexpr uint64_t kLeaseShare = 100;  // leases over all clients: this part of the pool
inline constexpr uint64_t kBatchShare = 8;    // with what batches lease beyond it: this part
inline constexpr uint64_t kOwnLeaseBytes = 64ULL << 20;  // what a lane may hold beyond kLeaseShare
inline constexpr uint64_t kProcessShare = 100;           // of one process that cannot be cut off
inline constexpr uint64_t kProcessAheadShare = 200;      // of that, with what it leases ahead
inline constexpr auto kLeaseIdle = 5s;       // untouched for so long, a lease may be recalled
inline constexpr auto kLeaseIdleShort = 1s;  // while puts are refused for want of memory
inline constexpr auto kRecallAnswer = 2s;    // else the lane is destroyed
inline constexpr size_t kMaxRecallsPerTick = 64;
inline constexpr size_t kMaxDisowned = 4096;  // lanes given up by word before they ended here
inline constexpr auto kPinTime = 2s;
inline constexpr size_t kMaxPins = 65536;
inline constexpr size_t kMaxSampledKeys = 1000;          // of one look at the keys of a server
inline constexpr uint64_t kMaxScannedEntries = 1 << 20;  // by it
inline constexpr uint64_t kPinShare = 4;  // held by pins at most: this part of the pool

// Manager.
inline constexpr auto kHeartbeat = 1s;
inline constexpr auto kSuspectAfter = 3s;
inline constexpr auto kDeadAfter = 10s;
inline constexpr size_t kWatchQueueUpdates = 64;   // beyond it a watcher gets a snapshot
inline constexpr auto kServersFirst = 500ms;       // longest wait for data servers to ack an epoch
inline constexpr size_t kMaxPulledShards = 16384;  // of one heartbeat; the others with the next one
inline constexpr size_t kMaxEvents = 4096;         // that the manager remembers
inline constexpr size_t kMaxHistorySamples = 600;  // one a second, of what went on

}  // namespace simm::limits
