#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/protocol/messages.h"
#include "common/transport/transport.h"
#include "dataserver/data_metrics.h"
#include "dataserver/one_sided_state.h"
#include "dataserver/pool.h"
#include "dataserver/read_allowance.h"
#include "dataserver/shard_check.h"

namespace simm::dataserver {

// One connection's part in the one-sided protocol (DESIGN 5 and 6): answers LEASE, COMMIT, RETURN,
// RESOLVE, LOOKUP, TOUCH_SLOTS and PIN, takes READ_REPORTs; owns the lane's grants. Knows no
// connection: its owner passes messages in and posts what comes out. One-thread.
//
// The owner calls End once the connection's Close has returned, and not before: until then the peer
// may still write into what it was granted.
class OneSidedSession {
 public:
  struct Options {
    bool is_lane = false;  // the peer writes by itself; else LOOKUP, TOUCH_SLOTS and PIN only
    DataRoad road = DataRoad::kOther;
    bool verify_puts = true;
    std::shared_ptr<transport::PeerProcess> process;
    std::function<void()> wake;  // any thread: makes the owner call Progress soon
  };
  // All but the options are borrowed.
  OneSidedSession(OneSidedState& state, Pool& pool, DataMetrics& metrics, ShardCheck& shards,
                  Options options);
  ~OneSidedSession();

  // Before the first message: whose connection this is.
  void Begin(uint64_t session);
  // Whether messages of this type belong here.
  static bool Takes(protocol::MessageType type);
  // The answer to a message, a part of `buffer`; empty when it has none, or none yet (Waiting).
  // kProtocolError: close the connection.
  Result<ByteSpan> Answer(protocol::MessageType type, ByteSpan body, Instant now,
                          protocol::MessageBuffer& buffer);
  // A RESOLVE waits for the end of another lane: no further message until Resume has answered.
  bool Waiting() const { return resolve_.has_value(); }
  // The answer, once that lane is destroyed; else empty.
  ByteSpan Resume(protocol::MessageBuffer& buffer);

  // Another lane of the session has asked for the end of this one.
  bool MustClose() const;
  // A recall was not answered in time: close the connection.
  bool Overdue(Instant now);
  // Leases to recall from the peer now.
  std::vector<uint64_t> TakeRecalls(Instant now);
  // The connection is closed. Frees what was granted, or leaves it to the end of the process.
  void End();

 private:
  struct Resolve {
    protocol::ResolveRequest request;
    std::string key;
  };
  Result<ByteSpan> Lease(ByteSpan body, Instant now, protocol::MessageBuffer& buffer);
  uint64_t GrantLease(const protocol::LeaseRequest& request, uint32_t admitted, Instant now,
                      protocol::LeaseReply* reply);
  Result<ByteSpan> Commit(ByteSpan body, Instant now, protocol::MessageBuffer& buffer);
  Code CommitTaken(const protocol::CommitRequest& m, const Hash128& hash, Code checked,
                   const LeasedExtent& leased);
  Status Return(ByteSpan body, Instant now);
  Result<ByteSpan> StartResolve(ByteSpan body, protocol::MessageBuffer& buffer);
  ByteSpan AnswerResolve(const protocol::ResolveRequest& m, protocol::MessageBuffer& buffer);
  Result<ByteSpan> Lookup(ByteSpan body, Instant now, protocol::MessageBuffer& buffer);
  Result<ByteSpan> Pin(ByteSpan body, Instant now, protocol::MessageBuffer& buffer);
  Code LocateAndPin(const protocol::KeysRequest& m, std::string_view key, Instant now,
                    protocol::Location* out);
  Status TouchSlots(ByteSpan body);
  Status TakeReport(ByteSpan body, Instant now);
  void Touch(const std::vector<protocol::SlotTouch>& touches);
  LeaseTable::LaneRef Ref() const {
    return {lane_ ? lane_->id : 0, options_.process, session_, lane_tag_};
  }

  OneSidedState& state_;
  Pool& pool_;
  DataMetrics& metrics_;
  ShardCheck& shards_;
  const Options options_;
  uint64_t session_ = 0;
  uint64_t lane_tag_ = 0;
  std::shared_ptr<LaneTable::Lane> lane_;  // while open, if it is one
  std::optional<Resolve> resolve_;
  ReadAllowance reads_;
};

}  // namespace simm::dataserver
