#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

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
class Lane final : public transport::Receiver {
 public:
  Lane(std::unique_ptr<transport::Connection> connection, uint64_t session);
  ~Lane() override;

  transport::Connection& connection() { return *connection_; }
  uint64_t session() const { return session_; }
  uint64_t NextRequestId() { return ++last_request_id_; }
  // No call has used it yet.
  bool fresh() const { return fresh_; }

  void Attach(LaneUser* user);
  // The user's memory is its own again; later arrivals are discarded.
  void Detach();

  // Sends a ping behind what is under way and waits for its echo: everything asked before has then
  // been answered and discarded. False: no echo within `timeout`, or more than `max_bytes` came
  // first; the lane is to be closed.
  bool Drain(Duration timeout, uint64_t max_bytes);

  transport::PayloadTarget OnMessage(uint64_t request_id, ByteSpan body,
                                     uint64_t payload_bytes) override;
  void OnPayload(ByteSpan landed) override;
  void OnMessageEnd(uint64_t request_id, std::optional<uint64_t> trailer) override;
  void OnClosed(const Status& why) override;

 private:
  std::unique_ptr<transport::Connection> connection_;
  const uint64_t session_;
  uint64_t last_request_id_ = 0;
  bool fresh_ = true;
  LaneUser* user_ = nullptr;
  bool discarding_ = false;  // the message under way belongs to a user that has gone
  uint64_t awaited_pong_ = 0;
};

}  // namespace simm::client
