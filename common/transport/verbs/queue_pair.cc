#include "common/transport/verbs/queue_pair.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "common/base/random.h"
#include "common/transport/verbs/message_header.h"

namespace simm::transport {
namespace {

// Enough for a COMMIT with a usual key behind the header; a device may grant more or less.
constexpr uint32_t kWantedInline = 256;
constexpr uint8_t kRnrTimer = 12;   // 0.64 ms until a sender tries again to find a buffer
constexpr uint8_t kRnrForever = 7;  // a full receiver is slow, not dead
constexpr uint8_t kHopLimit = 64;
constexpr uint32_t kMax24Bits = (1u << 24) - 1;

uint8_t AtMost255(int value) { return static_cast<uint8_t>(std::clamp(value, 1, 255)); }

}  // namespace

QueuePair::QueuePair(std::shared_ptr<Device> device, std::shared_ptr<ReceivePool> pool,
                     const QueuePairOptions& options)
    : device_(std::move(device)), pool_(std::move(pool)), options_(options) {}

Result<std::unique_ptr<QueuePair>> QueuePair::Create(std::shared_ptr<Device> device,
                                                     std::shared_ptr<ReceivePool> pool,
                                                     const QueuePairOptions& options) {
  std::unique_ptr<QueuePair> pair(new QueuePair(std::move(device), std::move(pool), options));
  SIMM_RETURN_IF_ERROR(pair->Start());
  return pair;
}

QueuePair::~QueuePair() {
  Destroy();
  if (completions_ != nullptr) {
    ibv_ack_cq_events(completions_, unacknowledged_events_);
    ibv_destroy_cq(completions_);
  }
  if (channel_ != nullptr) ibv_destroy_comp_channel(channel_);
}

Status QueuePair::Start() {
  channel_ = ibv_create_comp_channel(device_->context());
  if (channel_ == nullptr) {
    const int error = errno;
    if (error == EMFILE || error == ENFILE) {
      return Status(Code::kUnavailable, "too many open files: raise the limit (ulimit -n)");
    }
    return VerbsError("no completion channel", error);
  }
  fcntl(channel_->fd, F_SETFL, fcntl(channel_->fd, F_GETFL) | O_NONBLOCK);
  completions_ =
      ibv_create_cq(device_->context(), static_cast<int>(completion_depth()), nullptr, channel_, 0);
  if (completions_ == nullptr) return VerbsError("no completion queue", errno);
  Arm();

  ibv_qp_init_attr attributes{};
  attributes.send_cq = completions_;
  attributes.recv_cq = completions_;
  attributes.srq = pool_->queue();
  attributes.qp_type = IBV_QPT_RC;
  attributes.cap.max_send_wr = options_.send_depth + kReservedSends;
  attributes.cap.max_send_sge = options_.max_pieces;
  attributes.cap.max_inline_data = kWantedInline;
  queue_pair_ = ibv_create_qp(device_->protection_domain(), &attributes);
  for (uint32_t less = kWantedInline / 2; queue_pair_ == nullptr && less >= kMessageHeaderBytes;
       less /= 2) {
    attributes.cap.max_inline_data = less;
    queue_pair_ = ibv_create_qp(device_->protection_domain(), &attributes);
  }
  if (queue_pair_ == nullptr) return VerbsError("no queue pair", errno);
  max_inline_ = attributes.cap.max_inline_data;
  max_pieces_ = options_.max_pieces;
  number_ = queue_pair_->qp_num;
  packet_sequence_ = static_cast<uint32_t>(OsEntropy()) & kMax24Bits;
  if (max_inline_ < kMessageHeaderBytes) {
    return Status(Code::kUnavailable, device_->name() + " cannot send " +
                                          std::to_string(kMessageHeaderBytes) + " bytes inline");
  }
  return ToInit();
}

void QueuePair::Describe(Handshake& own) const {
  const Device::Port& port = device_->port();
  own.queue_pair = number_;
  own.packet_sequence = packet_sequence_;
  own.lid = port.lid;
  own.mtu = static_cast<uint8_t>(port.mtu);
  own.roce = port.roce;
  own.gid = port.gid;
  own.reads_started = AtMost255(device_->limits().max_qp_init_rd_atom);
  own.reads_served = AtMost255(device_->limits().max_qp_rd_atom);
}

Status QueuePair::Join(const Handshake& own, const Handshake& peer) {
  if (peer.roce != device_->port().roce) {
    return Status(Code::kInvalidArgument, "one side is on Ethernet, the other on InfiniBand");
  }
  SIMM_RETURN_IF_ERROR(ToReadyToReceive(own, peer));
  return ToReadyToSend(own, peer);
}

Status QueuePair::ToInit() {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.port_num = device_->port().number;
  // What may be done to which memory is said by each registration.
  attributes.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  const int error =
      ibv_modify_qp(queue_pair_, &attributes,
                    IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  return error == 0 ? Status::Ok() : VerbsError("queue pair to INIT", error);
}

Status QueuePair::ToReadyToReceive(const Handshake& own, const Handshake& peer) {
  const Device::Port& port = device_->port();
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_RTR;
  attributes.path_mtu = static_cast<ibv_mtu>(std::min(own.mtu, peer.mtu));
  attributes.dest_qp_num = peer.queue_pair;
  attributes.rq_psn = peer.packet_sequence;
  attributes.max_dest_rd_atomic = std::min(own.reads_served, peer.reads_started);
  attributes.min_rnr_timer = kRnrTimer;
  attributes.ah_attr.port_num = port.number;
  attributes.ah_attr.dlid = peer.lid;
  if (port.roce) {
    attributes.ah_attr.is_global = 1;
    std::copy(peer.gid.begin(), peer.gid.end(), attributes.ah_attr.grh.dgid.raw);
    attributes.ah_attr.grh.sgid_index = port.gid_index;
    attributes.ah_attr.grh.hop_limit = kHopLimit;
    attributes.ah_attr.grh.traffic_class = options_.traffic_class;
  }
  const int error =
      ibv_modify_qp(queue_pair_, &attributes,
                    IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                        IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
  if (error == 0) return Status::Ok();
  return VerbsError("no route from " + GidText(own.gid) + " to " + GidText(peer.gid), error);
}

Status QueuePair::ToReadyToSend(const Handshake& own, const Handshake& peer) {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_RTS;
  attributes.sq_psn = packet_sequence_;
  attributes.timeout = options_.ack_timeout;
  attributes.retry_cnt = options_.retry_count;
  attributes.rnr_retry = kRnrForever;
  attributes.max_rd_atomic = std::min(own.reads_started, peer.reads_served);
  const int error = ibv_modify_qp(queue_pair_, &attributes,
                                  IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                      IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
  return error == 0 ? Status::Ok() : VerbsError("queue pair to RTS", error);
}

void QueuePair::ToError() {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_ERR;
  // May be refused when the device has done it already, or is gone: Destroy ends it in any case.
  (void)ibv_modify_qp(queue_pair_, &attributes, IBV_QP_STATE);
}

void QueuePair::Destroy() {
  if (queue_pair_ == nullptr) return;
  ibv_destroy_qp(queue_pair_);
  queue_pair_ = nullptr;
}

size_t QueuePair::Poll(std::span<ibv_wc> out) {
  const int count = ibv_poll_cq(completions_, static_cast<int>(out.size()), out.data());
  return count > 0 ? static_cast<size_t>(count) : 0;
}

bool QueuePair::TakeEvent() {
  // libibverbs counts unacknowledged events in 32 bits; acknowledging takes a lock, so in bulk.
  constexpr unsigned kAcknowledgeAt = 1000;
  ibv_cq* queue = nullptr;
  void* owner = nullptr;
  if (ibv_get_cq_event(channel_, &queue, &owner) != 0) return false;
  if (++unacknowledged_events_ == kAcknowledgeAt) {
    ibv_ack_cq_events(completions_, unacknowledged_events_);
    unacknowledged_events_ = 0;
  }
  return true;
}

}  // namespace simm::transport
