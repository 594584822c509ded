#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "common/transport/transport.h"

namespace simm {

// A process whose end the test decides.
class FakeProcess final : public transport::PeerProcess {
 public:
  explicit FakeProcess(std::string name) : name_(std::move(name)) {}
  bool Ended() const override { return ended; }
  std::string Name() const override { return name_; }
  std::atomic<bool> ended{false};

 private:
  const std::string name_;
};

// A connection that says of itself what the test wants: other capabilities, or a process behind it
// that cannot be cut off.
class WrappedConnection : public transport::Connection {
 public:
  WrappedConnection(std::unique_ptr<Connection> inner, transport::Capabilities capabilities,
                    std::shared_ptr<transport::PeerProcess> process)
      : inner_(std::move(inner)), capabilities_(capabilities), process_(std::move(process)) {}

  const transport::Capabilities& capabilities() const override { return capabilities_; }
  void Start(transport::Receiver* receiver) override { inner_->Start(receiver); }
  Status Post(std::span<const transport::WorkItem> items) override { return inner_->Post(items); }
  bool Progress() override { return inner_->Progress(); }
  int PollFd() const override { return inner_->PollFd(); }
  short PollEvents() const override { return inner_->PollEvents(); }
  void PauseReceive(bool paused) override { inner_->PauseReceive(paused); }
  void DiscardPayload() override { inner_->DiscardPayload(); }
  void Close() override { inner_->Close(); }
  bool closed() const override { return inner_->closed(); }
  std::string PeerName() const override { return inner_->PeerName(); }
  transport::SessionTag Tag() const override { return inner_->Tag(); }
  const transport::ConnectionCounters& counters() const override { return inner_->counters(); }
  std::shared_ptr<transport::PeerProcess> peer_process() const override { return process_; }

 protected:
  Connection& inner() { return *inner_; }

 private:
  const std::unique_ptr<Connection> inner_;
  const transport::Capabilities capabilities_;
  const std::shared_ptr<transport::PeerProcess> process_;
};

}  // namespace simm
