#include "common/transport/chaos/chaos_transport.h"

#include <utility>

#include "common/transport/chaos/chaos_connection.h"

namespace simm::transport {

bool ChaosNetwork::Step() {
  ++now_;
  ready_.clear();
  for (ChaosConnection* lane : lanes_) {
    if (lane->HasWork()) ready_.push_back(lane);
  }
  if (ready_.empty()) return false;
  ready_[random_.Below(ready_.size())]->StepOnce();
  return true;
}

std::byte* ChaosNetwork::Find(uint64_t key, uint64_t offset, size_t size, uint8_t access) const {
  const auto it = regions_.find(key);
  if (it == regions_.end() || (it->second.access & access) == 0) return nullptr;
  const MutableByteSpan memory = it->second.memory;
  if (offset > memory.size() || size > memory.size() - offset) return nullptr;
  return memory.data() + offset;
}

class ChaosRegion final : public LocalRegion {
 public:
  ChaosRegion(ChaosNetwork& network, MutableByteSpan memory, uint8_t access)
      : network_(network), memory_(memory), access_(access), key_(network.next_key_++) {
    if (access != kLocalOnly) network_.regions_[key_] = {memory, access};
  }
  ~ChaosRegion() override { network_.regions_.erase(key_); }
  MutableByteSpan memory() const override { return memory_; }
  RemoteRegion Describe() const override {
    if (access_ == kLocalOnly) return {};
    return {{{0, memory_.size(), key_}}};
  }

 private:
  ChaosNetwork& network_;
  const MutableByteSpan memory_;
  const uint8_t access_;
  const uint64_t key_;
};

class ChaosAcceptor final : public Acceptor {
 public:
  ChaosAcceptor(ChaosNetwork& network, std::string endpoint, SessionCheck check)
      : network_(network), endpoint_(std::move(endpoint)) {
    listener_.check = std::move(check);
    network_.listeners_[endpoint_] = &listener_;
  }
  ~ChaosAcceptor() override { network_.listeners_.erase(endpoint_); }
  int PollFd() const override { return -1; }
  std::unique_ptr<Connection> Accept() override {
    if (listener_.waiting.empty()) return nullptr;
    auto connection = std::move(listener_.waiting.front());
    listener_.waiting.pop_front();
    return connection;
  }
  std::string Address() const override { return endpoint_; }

 private:
  ChaosNetwork& network_;
  const std::string endpoint_;
  ChaosNetwork::Listener listener_;
};

const Capabilities& ChaosTransport::capabilities() const { return kChaosCapabilities; }

Result<std::unique_ptr<LocalRegion>> ChaosTransport::Register(MutableByteSpan memory,
                                                              uint8_t access) {
  if (memory.empty()) return Status(Code::kInvalidArgument, "no memory to register");
  return std::unique_ptr<LocalRegion>(std::make_unique<ChaosRegion>(network_, memory, access));
}

Result<std::unique_ptr<Connection>> ChaosTransport::Connect(const std::string& endpoint,
                                                            SessionTag tag, Duration) {
  const auto it = network_.listeners_.find(endpoint);
  if (it == network_.listeners_.end()) {
    return Status(Code::kUnavailable, "nobody listens at " + endpoint);
  }
  auto near = std::make_unique<ChaosConnection>(network_, endpoint, tag);
  auto far = std::make_unique<ChaosConnection>(network_, "client of " + endpoint, SessionTag{});
  near->Join(far.get(), nullptr);
  far->Join(near.get(), it->second->check);
  it->second->waiting.push_back(std::move(far));
  return std::unique_ptr<Connection>(std::move(near));
}

Result<std::unique_ptr<Acceptor>> ChaosTransport::Listen(const std::string& endpoint,
                                                         const std::string& flag,
                                                         SessionCheck check) {
  if (network_.listeners_.count(endpoint) > 0) {
    return Status(Code::kUnavailable,
                  "endpoint " + endpoint + " is taken; choose another with " + flag);
  }
  return std::unique_ptr<Acceptor>(
      std::make_unique<ChaosAcceptor>(network_, endpoint, std::move(check)));
}

}  // namespace simm::transport
