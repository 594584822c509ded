#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/lease_keeper.h"
#include "client/pool_access.h"
#include "client/read_news.h"
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

// One data connection to one server, used by one call at a time. Thread-compatible.
//
// Extents that it keeps at hand (leases()) go back to the server when they have lain unused, on
// RECALL, and when the lane is destroyed while its connection is open: all that the lane holds goes
// with one word. What a lane that broke has held, the next lane to that server disowns. What its
// reads have come to is reported in messages that travel anyway, and with its close.
class Lane final : public transport::Receiver {
 public:
  // Values of one step of a one-sided batch at most, in keys.
  static constexpr size_t kWaveKeys = 128;
  // Credit for messages that news leave to questions and puts: a paused server takes none, but can
  // be read, and reads must not stand behind a message.
  static constexpr size_t kSpareCredit = 4;

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
  ReadNews& news() { return news_; }
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
  // `mute`: the server answers no messages now.
  void TendIfDue(Instant now, bool mute);
  // Answers recalls, gives back what has not been used for long, disowns. Never waits.
  void Tend(Instant now);
  // Sends what reads have come to, if it has waited for long enough.
  void SendNews(Instant now);

  transport::PayloadTarget OnMessage(uint64_t request_id, ByteSpan body,
                                     uint64_t payload_bytes) override;
  void OnPayload(ByteSpan landed) override;
  void OnMessageEnd(uint64_t request_id, std::optional<uint64_t> trailer) override;
  void OnClosed(const Status& why) override;

 private:
  void Send(ByteSpan body);
  void OnUnclaimed(uint64_t request_id, ByteSpan body);
  bool TakeOwn(uint64_t request_id, ByteSpan body);
  void SayGoodbye(ByteSpan body);

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
  ReadNews news_;
  LeaseKeeper leases_;
  uint64_t id_ = 0;
  const uint64_t tag_;
  bool leasing_ = false;
  std::vector<uint64_t> disowning_;  // said, and not known to have been heard
  uint64_t disown_echo_ = 0;         // the ping behind that
  Instant tended_;
  struct Goodbye final : transport::Completion {
    void OnComplete(const Status&) override { --under_way; }
    size_t under_way = 0;
  } goodbye_;
};

}  // namespace simm::client
