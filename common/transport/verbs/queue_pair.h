#pragma once

#include <infiniband/verbs.h>

#include <memory>
#include <span>

#include "common/transport/verbs/device.h"
#include "common/transport/verbs/handshake.h"
#include "common/transport/verbs/receive_pool.h"

namespace simm::transport {

struct QueuePairOptions {
  uint32_t send_depth = 256;
  uint32_t max_pieces = 4;
  // A dead peer is noticed after retry_count + 1 times the timeout: 7 x 67 ms = 0.5 s (a device may
  // take up to four times its timeout). Not 7: Soft-RoCE takes that for "for ever".
  uint8_t ack_timeout = 14;  // 4.096 us * 2^n
  uint8_t retry_count = 6;
  uint8_t traffic_class = 0;
};

// A reliable connected queue pair with its completion queue and event channel. Thread-compatible.
// The completion queue holds every send and every buffer of the receive pool: it cannot overrun.
class QueuePair {
 public:
  // Sends beyond send_depth that are kept for the end of a lane: its goodbye and its drain mark.
  static constexpr uint32_t kReservedSends = 2;

  static Result<std::unique_ptr<QueuePair>> Create(std::shared_ptr<Device> device,
                                                   std::shared_ptr<ReceivePool> pool,
                                                   const QueuePairOptions& options);
  ~QueuePair();

  // Fills in what is this side's own (not window, tag and kind).
  void Describe(Handshake& own) const;
  // To ready to send. kInvalidArgument: the peer cannot be reached from this port;
  // kUnavailable: refused by the device.
  Status Join(const Handshake& own, const Handshake& peer);
  // Everything outstanding is flushed from now on.
  void ToError();
  // From its return on the device touches no memory for this queue pair. Idempotent.
  void Destroy();

  int PostSend(ibv_send_wr* chain, ibv_send_wr** refused) {
    return ibv_post_send(queue_pair_, chain, refused);
  }
  // How many completions, 0 to out.size(); a broken device gives none.
  size_t Poll(std::span<ibv_wc> out);
  // The next completion that comes makes fd readable, once.
  void Arm() { ibv_req_notify_cq(completions_, 0); }
  // Takes the event that lies in fd, of which there is at most one for each Arm; false when there
  // is none.
  bool TakeEvent();
  int fd() const { return channel_->fd; }

  uint32_t max_inline() const { return max_inline_; }
  uint32_t max_pieces() const { return max_pieces_; }
  uint32_t send_depth() const { return options_.send_depth; }
  uint32_t completion_depth() const {
    return options_.send_depth + kReservedSends + pool_->depth();
  }
  uint32_t number() const { return number_; }

 private:
  QueuePair(std::shared_ptr<Device> device, std::shared_ptr<ReceivePool> pool,
            const QueuePairOptions& options);
  Status Start();
  Status ToInit();
  Status ToReadyToReceive(const Handshake& own, const Handshake& peer);
  Status ToReadyToSend(const Handshake& own, const Handshake& peer);

  const std::shared_ptr<Device> device_;
  const std::shared_ptr<ReceivePool> pool_;
  QueuePairOptions options_;
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* completions_ = nullptr;
  ibv_qp* queue_pair_ = nullptr;
  uint32_t max_inline_ = 0;
  uint32_t max_pieces_ = 0;
  uint32_t number_ = 0;
  uint32_t packet_sequence_ = 0;
  unsigned unacknowledged_events_ = 0;
};

}  // namespace simm::transport
