#include "common/transport/verbs/verbs_transport.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/transport/verbs/handshake.h"
#include "common/transport/verbs/verbs_connection.h"
#include "common/transport/verbs/verbs_region.h"

namespace simm::transport {
namespace {

Status AtMost(const std::string& what, uint64_t asked, int64_t most) {
  if (asked > 0 && most > 0 && asked <= static_cast<uint64_t>(most)) return Status::Ok();
  return Status(Code::kInvalidArgument, what + " is " + std::to_string(asked) +
                                            ", this device allows 1 to " + std::to_string(most));
}

Status CheckOptions(const VerbsOptions& options, const ibv_device_attr& device) {
  const QueuePairOptions& pair = options.queue_pair;
  SIMM_RETURN_IF_ERROR(
      AtMost("the send depth", pair.send_depth, device.max_qp_wr - int{QueuePair::kReservedSends}));
  SIMM_RETURN_IF_ERROR(AtMost("the number of pieces", pair.max_pieces, device.max_sge));
  SIMM_RETURN_IF_ERROR(AtMost("the receive depth", options.receive_depth, device.max_srq_wr));
  SIMM_RETURN_IF_ERROR(
      AtMost("send and receive depth together",
             uint64_t{pair.send_depth} + QueuePair::kReservedSends + options.receive_depth,
             device.max_cqe));
  return AtMost("the message window", options.message_window, options.receive_depth);
}

Handshake OwnHandshake(const QueuePair& pair, Handshake::Kind kind, const SessionTag& tag,
                       uint16_t window) {
  Handshake own;
  pair.Describe(own);
  own.kind = kind;
  own.tag = tag;
  own.window = window;
  return own;
}

Result<std::unique_ptr<Connection>> MakeLane(const VerbsShared& shared,
                                             std::unique_ptr<QueuePair> pair,
                                             VerbsConnection::Options options) {
  options.own_window = shared.options.message_window;
  options.goodbye_wait = shared.options.goodbye_wait;
  options.clock = shared.options.clock;
  auto lane =
      VerbsConnection::Create(shared.device, shared.pool, std::move(pair), std::move(options));
  if (!lane.ok()) return lane.status();
  return std::unique_ptr<Connection>(std::move(*lane));
}

}  // namespace

VerbsAnswerDesk::VerbsAnswerDesk(std::shared_ptr<const VerbsShared> shared, SessionCheck check)
    : shared_(std::move(shared)),
      check_(check != nullptr ? std::move(check) : [](const SessionTag&) { return Status(); }),
      event_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC | EFD_SEMAPHORE)) {}

VerbsAnswerDesk::~VerbsAnswerDesk() {
  Close();
  if (event_fd_ >= 0) close(event_fd_);
}

Result<std::string> VerbsAnswerDesk::Answer(const std::string& offer) {
  const auto peer = DecodeHandshake(offer, Handshake::Kind::kOffer);
  if (!peer.ok()) return peer.status();
  SIMM_RETURN_IF_ERROR(check_(peer->tag));
  {
    MutexLock lock(mutex_);
    if (closed_) return Status(Code::kUnavailable, "no longer listening");
    if (waiting_.size() + under_way_ >= kMaxWaitingLanes) {
      return Status(Code::kBusy, std::to_string(kMaxWaitingLanes) + " peers wait already");
    }
    ++under_way_;
  }
  // A queue pair takes the device up to a millisecond: made without the lock.
  Handshake own;
  auto lane = [&]() -> Result<std::unique_ptr<Connection>> {
    auto pair = QueuePair::Create(shared_->device, shared_->pool, shared_->options.queue_pair);
    if (!pair.ok()) return pair.status();
    own =
        OwnHandshake(**pair, Handshake::Kind::kAnswer, peer->tag, shared_->options.message_window);
    SIMM_RETURN_IF_ERROR((*pair)->Join(own, *peer));
    return MakeLane(*shared_, std::move(*pair),
                    {.peer = GidText(peer->gid) + " qp " + std::to_string(peer->queue_pair),
                     .tag = peer->tag,
                     .check = check_,
                     .peer_window = peer->window});
  }();
  MutexLock lock(mutex_);
  --under_way_;
  if (!lane.ok()) return lane.status();
  if (closed_) return Status(Code::kUnavailable, "no longer listening");
  waiting_.push_back(std::move(*lane));
  (void)eventfd_write(event_fd_, 1);
  return EncodeHandshake(own);
}

std::unique_ptr<Connection> VerbsAnswerDesk::Take() {
  MutexLock lock(mutex_);
  if (waiting_.empty()) {
    errno = EAGAIN;
    return nullptr;
  }
  eventfd_t one = 0;
  (void)eventfd_read(event_fd_, &one);
  std::unique_ptr<Connection> lane = std::move(waiting_.front());
  waiting_.pop_front();
  return lane;
}

void VerbsAnswerDesk::Close() {
  std::deque<std::unique_ptr<Connection>> waiting;
  MutexLock lock(mutex_);
  closed_ = true;
  waiting.swap(waiting_);
}

VerbsAcceptor::VerbsAcceptor(VerbsTransport& transport, std::string endpoint,
                             std::shared_ptr<VerbsAnswerDesk> desk)
    : transport_(transport), endpoint_(std::move(endpoint)), desk_(std::move(desk)) {}

VerbsAcceptor::~VerbsAcceptor() {
  transport_.Forget(endpoint_);
  desk_->Close();
}

Result<std::unique_ptr<VerbsTransport>> VerbsTransport::Create(VerbsOptions options) {
  auto device = Device::Open(options.device);
  if (!device.ok()) return device.status();
  SIMM_RETURN_IF_ERROR(CheckOptions(options, (*device)->limits()));
  auto pool = ReceivePool::Create(*device, options.receive_depth);
  if (!pool.ok()) return pool.status();
  auto shared = std::make_shared<VerbsShared>();
  shared->options = std::move(options);
  shared->device = std::move(*device);
  shared->pool = std::move(*pool);
  return std::unique_ptr<VerbsTransport>(new VerbsTransport(std::move(shared)));
}

VerbsTransport::~VerbsTransport() = default;

const Capabilities& VerbsTransport::capabilities() const { return kVerbsCapabilities; }

std::string VerbsTransport::Medium() const {
  const Device::Port& port = shared_->device->port();
  return shared_->device->name() + " port " + std::to_string(port.number) + ", " +
         (port.roce ? GidText(port.gid) : "lid " + std::to_string(port.lid));
}

Result<std::unique_ptr<LocalRegion>> VerbsTransport::Register(MutableByteSpan memory,
                                                              uint8_t access) {
  return VerbsRegion::Create(shared_->device, memory, access,
                             shared_->options.registration_chunk_bytes);
}

Result<std::unique_ptr<Connection>> VerbsTransport::Connect(const std::string& endpoint,
                                                            SessionTag tag, Duration timeout) {
  const VerbsOptions& options = shared_->options;
  if (options.bootstrap == nullptr) {
    return Status(Code::kInvalidArgument, "this verbs transport has no bootstrap to connect with");
  }
  auto pair = QueuePair::Create(shared_->device, shared_->pool, options.queue_pair);
  if (!pair.ok()) return pair.status();
  const Handshake own = OwnHandshake(**pair, Handshake::Kind::kOffer, tag, options.message_window);
  const auto answer = options.bootstrap(endpoint, EncodeHandshake(own), timeout);
  if (!answer.ok()) return answer.status();
  const auto peer = DecodeHandshake(*answer, Handshake::Kind::kAnswer);
  if (!peer.ok()) return peer.status();
  if (peer->tag.session != tag.session || peer->tag.incarnation != tag.incarnation) {
    return Status(Code::kProtocolError, endpoint + " answers for another session");
  }
  SIMM_RETURN_IF_ERROR((*pair)->Join(own, *peer));
  return MakeLane(*shared_, std::move(*pair),
                  {.peer = endpoint, .tag = tag, .check = nullptr, .peer_window = peer->window});
}

Result<std::unique_ptr<Acceptor>> VerbsTransport::Listen(const std::string& endpoint,
                                                         const std::string& flag,
                                                         SessionCheck check) {
  auto desk = std::make_shared<VerbsAnswerDesk>(shared_, std::move(check));
  if (desk->fd() < 0) {
    return Status(Code::kUnavailable, "no eventfd: raise the limit of open files (ulimit -n)");
  }
  {
    MutexLock lock(mutex_);
    if (!desks_.emplace(endpoint, desk).second) {
      return Status(Code::kUnavailable,
                    "endpoint " + endpoint + " is taken; choose another with " + flag);
    }
  }
  return std::unique_ptr<Acceptor>(
      std::make_unique<VerbsAcceptor>(*this, endpoint, std::move(desk)));
}

Result<std::string> VerbsTransport::Answer(const std::string& endpoint, const std::string& offer) {
  std::shared_ptr<VerbsAnswerDesk> desk;
  {
    MutexLock lock(mutex_);
    if (const auto it = desks_.find(endpoint); it != desks_.end()) desk = it->second;
  }
  if (desk == nullptr) return Status(Code::kUnavailable, "nobody listens at " + endpoint);
  return desk->Answer(offer);
}

void VerbsTransport::Forget(const std::string& endpoint) {
  MutexLock lock(mutex_);
  desks_.erase(endpoint);
}

}  // namespace simm::transport
