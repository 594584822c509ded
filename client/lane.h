#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/lease_keeper.h"
#include "client/pool_access.h"
#include "common/protocol/messages.h"
#include "common/transport/transport.h"

namespace simm::client {

// Who hears what arrives on a lane while it has it: one server's part of a call.
class LaneUser {
 public:
  virtual ~LaneUser() = default;
  // kProtocolError from Begin or End closes the lane.
  virtual Result<transport::PayloadTarget> OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                        uint64_t payload_bytes) = 0;
  virtual void OnReplyPayload(ByteSpan landed) = 0;
  virtual Status OnReplyEnd(uint64_t request_id) = 0;
  virtual void OnLaneClosed(const Status& why) = 0;
};

// Uses of values by one-sided reads that the server has not seen: deduplicated; the oldest are
// dropped when too many wait. They travel with a LEASE, or alone when a message's worth of them has
// gathered or the oldest has waited long enough, at most 25 messages a second. One-thread.
class TouchBuffer {
 public:
  static constexpr size_t kMostPending = 4 * protocol::kMaxSlotTouches;
  static constexpr auto kMinInterval = std::chrono::milliseconds(40);
  static constexpr auto kMaxAge = std::chrono::milliseconds(200);

  void Add(const protocol::SlotTouch& touch, Instant now);
  bool Due(Instant now) const;
  bool empty() const { return pending_.empty(); }
  // Encodes the oldest that are pending, one message's worth.
  ByteSpan Take(Instant now, protocol::MessageBuffer& out);

 private:
  std::deque<protocol::SlotTouch> pending_;
  std::array<protocol::SlotTouch, 512> recent_{};
  Instant oldest_;
  Instant last_sent_;
};

// One data connection to one server, used by one call at a time. Thread-compatible.
//
// Extents that it keeps at hand (leases()) go back to the server when they have lain unused, on
// RECALL, and when the lane is destroyed while its connection is open: all that the lane holds goes
// with one word. What a lane that broke has held, the next lane to that server disowns.
class Lane final : public transport::Receiver {
 public:
  // Values of one step of a one-sided batch at most, in keys.
  static constexpr size_t kWaveKeys = 128;

  // `pool`: what one-sided operations over this connection need; nullptr: messages only.
  Lane(std::unique_ptr<transport::Connection> connection, uint64_t session,
       std::shared_ptr<const PoolAccess> pool = nullptr);
  ~Lane() override;

  transport::Connection& connection() { return *connection_; }
  uint64_t session() const { return session_; }
  const PoolAccess* pool() const { return pool_.get(); }
  const std::shared_ptr<const PoolAccess>& shared_pool() const { return pool_; }
  uint64_t NextRequestId() { return ++last_request_id_; }
  Instant last_used() const { return last_used_; }
  // No call has used it yet.
  bool fresh() const { return fresh_; }
  // Makes the scratch memory, registered where the transport wants that. kUnavailable: it cannot
  // be; the lane is of no use then.
  Status PrepareScratch();
  // Where the reads and heads of one wave land: kWaveKeys of them. Of one-sided lanes.
  protocol::ReadScratch* scratch() const { return scratch_.get(); }
  const transport::LocalRegion* scratch_region() const { return scratch_region_.get(); }
  // No message has left for as long as a session may be silent between keepalives.
  bool KeepaliveDue(Instant now);
  TouchBuffer& touches() { return touches_; }
  LeaseKeeper& leases() { return leases_; }
  // The server's name of this lane, 0 before its first LEASE was answered.
  uint64_t id() const { return id_; }
  // For LEASEs: what the lane is disowned by, unique. From the first one on the
  // server may hold extents for this lane.
  uint64_t TagForLease() {
    leasing_ = true;
    return tag_;
  }
  void SetId(uint64_t id) { id_ = id; }
  // Closes; what the lane holds is given back first, if that can be said without waiting.
  void Close();

  void Attach(LaneUser* user);
  // The user's memory is its own again; later arrivals are discarded.
  void Detach();

  // Sends a ping behind what is under way and waits for its echo: everything asked before has then
  // been answered and discarded. False: no echo within `timeout`, or more than `max_bytes` came
  // first; the lane is to be closed.
  bool Drain(Duration timeout, uint64_t max_bytes);
  // Gives granted extents back to the server.
  void Return(const LeaseKeeper::Returns& returns);
  // The same for all that is kept at hand; false: there was nothing.
  bool ReturnIdle();
  // For an extent that nothing was written to: keeps it at hand or gives it back.
  void KeepOrReturn(const GrantedExtent& extent, Instant now);
  // Disowns what lanes that broke have held.
  void DisownLost();
  // Of an idle lane, called often: Tend, every limits::kLaneTending, if there is something to do.
  void TendIfDue(Instant now);
  // Answers recalls, gives back what has not been used for long, disowns. Never waits.
  void Tend(Instant now);
  // Sends the touches that have waited for long enough.
  void SendTouches(Instant now);

  transport::PayloadTarget OnMessage(uint64_t request_id, ByteSpan body,
                                     uint64_t payload_bytes) override;
  void OnPayload(ByteSpan landed) override;
  void OnMessageEnd(uint64_t request_id, std::optional<uint64_t> trailer) override;
  void OnClosed(const Status& why) override;

 private:
  void Send(ByteSpan body);
  void OnUnclaimed(uint64_t request_id, ByteSpan body);
  bool TakeOwn(uint64_t request_id, ByteSpan body);
  void SayGoodbye();

  // Outlive the connection, which may write to it until it is closed.
  std::unique_ptr<protocol::ReadScratch[]> scratch_;
  std::unique_ptr<transport::LocalRegion> scratch_region_;
  std::unique_ptr<transport::Connection> connection_;
  const uint64_t session_;
  const std::shared_ptr<const PoolAccess> pool_;
  uint64_t last_request_id_ = 0;
  bool fresh_ = true;
  LaneUser* user_ = nullptr;
  bool discarding_ = false;  // the message under way belongs to a user that has gone
  uint64_t awaited_pong_ = 0;
  Instant last_used_;
  uint64_t messages_seen_ = 0;
  Instant last_message_;
  TouchBuffer touches_;
  LeaseKeeper leases_;
  uint64_t id_ = 0;
  const uint64_t tag_;
  bool leasing_ = false;
  std::vector<uint64_t> disowning_;  // said, and not known to have been heard
  uint64_t disown_echo_ = 0;         // the ping behind that
  Instant tended_;
  struct Goodbye final : transport::Completion {
    void OnComplete(const Status&) override { over = true; }
    bool over = false;
  } goodbye_;
};

}  // namespace simm::client
