// Any bytes on a tcp connection: messages are delivered whole, in order, with their payload inside
// the lent memory, or the connection closes once.

#include "tests/support/byte_peer.h"

namespace {

using namespace simm;             // NOLINT
using namespace simm::transport;  // NOLINT

struct CheckingReceiver : Receiver {
  PayloadTarget OnMessage(uint64_t, ByteSpan body, uint64_t payload_bytes) override {
    if (open || closed || body.empty() || body.size() > limits::kMaxMessageBytes) std::abort();
    open = true;
    left = payload_bytes;
    PayloadTarget target;
    target.segments[0] = {memory, std::min<uint64_t>(sizeof memory, payload_bytes / 2), nullptr};
    target.segments[1] = {memory, 0, nullptr};
    target.segments[2] = {memory, std::min<uint64_t>(16, payload_bytes), nullptr};
    target.count = 3;
    return target;
  }
  void OnPayload(ByteSpan landed) override {
    if (!open || landed.size() > left || landed.data() < memory ||
        landed.data() + landed.size() > memory + sizeof memory) {
      std::abort();
    }
    left -= landed.size();
  }
  void OnMessageEnd(uint64_t, std::optional<uint64_t>) override {
    if (!open || closed) std::abort();
    open = false;
  }
  void OnClosed(const Status&) override {
    if (closed) std::abort();
    closed = true;
  }
  std::byte memory[512];
  bool open = false, closed = false;
  uint64_t left = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CheckingReceiver receiver;
  BytePeer peer([](const SessionTag&) { return Status(); });
  peer.connection->Start(&receiver);
  FrameMaker frames(data, size);
  while (!frames.done() && !receiver.closed) {
    const auto stream = frames.Next();
    if (write(peer.fd, stream.data(), stream.size()) < 0 && errno != EAGAIN) break;
    peer.connection->Progress();
  }
  peer.connection->Close();
  if (!receiver.closed) std::abort();
  return 0;
}
