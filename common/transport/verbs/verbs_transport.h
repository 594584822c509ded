#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/transport/transport.h"
#include "common/transport/verbs/device.h"
#include "common/transport/verbs/queue_pair.h"
#include "common/transport/verbs/receive_pool.h"

namespace simm::transport {

struct VerbsOptions {
  // Carries the client's offer to the server at `endpoint`, whose VerbsAcceptor::Answer makes the
  // answer, and brings that back by `timeout`; kUnavailable when nobody is there. In production the
  // gRPC handshake. Called by Connect on its thread. Without it Connect is refused.
  using Bootstrap = std::function<Result<std::string>(const std::string& endpoint,
                                                      const std::string& offer, Duration timeout)>;
  Bootstrap bootstrap;
  DeviceOptions device;
  QueuePairOptions queue_pair;
  uint32_t receive_depth = 512;  // buffers of the shared receive queue, 4160 bytes each
  uint16_t message_window = 16;  // messages that a peer may send before any is consumed
  uint64_t registration_chunk_bytes = 1ULL << 30;
  Duration goodbye_wait = std::chrono::milliseconds(2);  // many lanes may close one after another
  const Clock* clock = &MonotonicClock::Get();
};

// Bounds of its own; the device's limits apply besides.
inline constexpr size_t kMaxWaitingLanes = 1024;  // answered, not yet accepted; of one acceptor

// What all lanes of one transport share. Immutable but for the thread-safe pool.
struct VerbsShared {
  VerbsOptions options;
  std::shared_ptr<Device> device;
  std::shared_ptr<ReceivePool> pool;
};

// Turns offers into lanes. Thread-safe.
class VerbsAnswerDesk {
 public:
  VerbsAnswerDesk(std::shared_ptr<const VerbsShared> shared, SessionCheck check);
  ~VerbsAnswerDesk();

  Result<std::string> Answer(const std::string& offer);
  std::unique_ptr<Connection> Take();
  void Close();
  int fd() const { return event_fd_; }

 private:
  const std::shared_ptr<const VerbsShared> shared_;
  const SessionCheck check_;
  const int event_fd_;
  Mutex mutex_;
  bool closed_ SIMM_GUARDED_BY(mutex_) = false;
  size_t under_way_ SIMM_GUARDED_BY(mutex_) = 0;  // answers being made now
  std::deque<std::unique_ptr<Connection>> waiting_ SIMM_GUARDED_BY(mutex_);
};

class VerbsTransport;

// The server's side of the handshake. Accept, PollFd and the destructor: thread-compatible, as the
// contract says; Answer: thread-safe.
class VerbsAcceptor final : public Acceptor {
 public:
  VerbsAcceptor(VerbsTransport& transport, std::string endpoint,
                std::shared_ptr<VerbsAnswerDesk> desk);
  ~VerbsAcceptor() override;

  // The answer to a client's offer; the new lane waits for Accept. kProtocolError: not an offer;
  // kInvalidArgument: the client cannot be reached from here; kBusy: kMaxWaitingLanes wait;
  // kUnavailable: closed, or refused by the device; or what the session check says. The check is
  // called here too, on the caller's thread, and must be thread-safe.
  Result<std::string> Answer(const std::string& offer) { return desk_->Answer(offer); }

  int PollFd() const override { return desk_->fd(); }
  std::unique_ptr<Connection> Accept() override { return desk_->Take(); }
  std::string Address() const override { return endpoint_; }

 private:
  VerbsTransport& transport_;
  const std::string endpoint_;
  const std::shared_ptr<VerbsAnswerDesk> desk_;
};

// RDMA by libibverbs: reliable connected queue pairs on one port of one device. An endpoint is a
// name: to Connect what the bootstrap understands, to Listen anything. Thread-safe. Lanes and
// regions keep the device alive; acceptors must go before the transport.
class VerbsTransport final : public Transport {
 public:
  // kUnavailable: no device that can be used, or a limit; kInvalidArgument: options beyond what the
  // device can do. The message names the mend.
  static Result<std::unique_ptr<VerbsTransport>> Create(VerbsOptions options);
  ~VerbsTransport() override;

  std::string_view name() const override { return "verbs"; }
  const Capabilities& capabilities() const override;
  std::string Medium() const override;
  Result<std::unique_ptr<LocalRegion>> Register(MutableByteSpan memory, uint8_t access) override;
  Result<std::unique_ptr<Connection>> Connect(const std::string& endpoint, SessionTag tag,
                                              Duration timeout) override;
  Result<std::unique_ptr<Acceptor>> Listen(const std::string& endpoint, const std::string& flag,
                                           SessionCheck check) override;

  Result<std::string> Answer(const std::string& endpoint, const std::string& offer) override;
  const Device& device() const { return *shared_->device; }

 private:
  friend class VerbsAcceptor;
  explicit VerbsTransport(std::shared_ptr<const VerbsShared> shared) : shared_(std::move(shared)) {}
  void Forget(const std::string& endpoint);

  const std::shared_ptr<const VerbsShared> shared_;
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<VerbsAnswerDesk>> desks_ SIMM_GUARDED_BY(mutex_);
};

extern const Capabilities kVerbsCapabilities;

}  // namespace simm::transport
