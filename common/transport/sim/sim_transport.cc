#include "common/transport/sim/sim_transport.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "common/base/limits.h"

namespace simm::transport {
namespace {

const Capabilities kSimCapabilities = {
    .transport = "sim",
    .one_sided = true,
    .payload = true,
    .max_message_bytes = limits::kMaxMessageBytes,
    .needs_registration = true,
};

// The unit in which remote memory is read and written; a cache line, as PCIe does it.
constexpr size_t kPieceBytes = 64;

}  // namespace

// A peer's memory may change between two pieces and is then torn by design: copied with relaxed
// atomic words where both sides are aligned, so that ThreadSanitizer agrees, else bytewise.
void CopyPiece(std::byte* to, const std::byte* from, size_t size) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 8 == 0; };
  if (size % 8 == 0 && aligned(to) && aligned(from)) {
    for (size_t i = 0; i < size; i += 8) {
      auto* source = reinterpret_cast<uint64_t*>(const_cast<std::byte*>(from) + i);
      const uint64_t word = __atomic_load_n(source, __ATOMIC_RELAXED);
      __atomic_store_n(reinterpret_cast<uint64_t*>(to + i), word, __ATOMIC_RELAXED);
    }
    return;
  }
  std::memcpy(to, from, size);
}

class SimConnection final : public Connection {
 public:
  SimConnection(SimNetwork& network, std::string peer, SessionTag tag)
      : network_(network), peer_name_(std::move(peer)), tag_(tag) {
    network_.lanes_.push_back(this);
  }
  ~SimConnection() override {
    Close();
    std::erase(network_.lanes_, this);
  }

  void Join(SimConnection* other, SessionCheck check) {
    peer_ = other;
    check_ = std::move(check);
  }

  const Capabilities& capabilities() const override { return kSimCapabilities; }
  void Start(Receiver* receiver) override { receiver_ = receiver; }
  Status Post(std::span<const WorkItem> items) override;
  bool Progress() override;
  int PollFd() const override { return -1; }
  short PollEvents() const override { return static_cast<short>(paused_ ? 0 : POLLIN); }
  void PauseReceive(bool paused) override { paused_ = paused; }
  void DiscardPayload() override {}  // a message arrives within one Progress
  void Close() override { Fail(Status(Code::kUnavailable, "connection closed")); }
  bool closed() const override { return closed_; }
  std::string PeerName() const override { return peer_name_; }
  SessionTag Tag() const override { return tag_; }
  const ConnectionCounters& counters() const override { return counters_; }

  bool HasWork() const { return !closed_ && !peer_left_ && !work_.empty(); }
  void StepOnce();

 private:
  struct Work {
    WorkItem item;
    std::vector<MutableSegment> local;
    std::vector<std::byte> body;
    std::vector<ConstSegment> payload;
    uint64_t done = 0;
  };
  struct Arrival {  // a message on its way up at the receiver
    SessionTag tag;
    uint64_t request_id;
    std::vector<std::byte> body;
    std::vector<std::byte> payload;
    std::optional<uint64_t> trailer;
  };

  Status CheckItem(const WorkItem& item) const;
  Result<std::byte*> RemoteAt(const RemoteRegion& region, uint64_t offset, size_t size,
                              uint8_t access) const;
  void StepOneSided(Work& work);
  void StepSend(Work& work);
  void Finish(const Status& status);
  void Deliver(Arrival arrival);
  void Fail(const Status& why);

  SimNetwork& network_;
  const std::string peer_name_;
  SessionTag tag_;
  SessionCheck check_;
  SimConnection* peer_ = nullptr;
  Receiver* receiver_ = nullptr;
  ConnectionCounters counters_;
  bool paused_ = false;
  bool closed_ = false;
  std::optional<Status> peer_left_;
  std::deque<Work> work_;
  std::deque<std::pair<Completion*, Status>> completed_;
  std::deque<Arrival> arrivals_;
};

Status SimConnection::CheckItem(const WorkItem& item) const {
  if (item.op == Op::kSend) {
    if (item.message.body.empty() || item.message.body.size() > limits::kMaxMessageBytes) {
      return Status(Code::kInvalidArgument, "message body must have 1 to 4096 bytes");
    }
    return Status::Ok();
  }
  if (item.tap != nullptr) return Status(Code::kInvalidArgument, "a tap would see nothing");
  uint64_t size = 0;
  for (const MutableSegment& s : item.local) {
    if (s.region == nullptr || s.data < s.region->memory().data() ||
        s.data + s.size > s.region->memory().data() + s.region->memory().size()) {
      return Status(Code::kInvalidArgument, "local memory is not registered");
    }
    size += s.size;
  }
  uint64_t total = 0;
  if (item.remote != nullptr) {
    for (const RemoteChunk& c : item.remote->chunks) total = std::max(total, c.offset + c.length);
  }
  if (size == 0 || item.remote_offset > total || size > total - item.remote_offset) {
    return Status(Code::kInvalidArgument, "outside the remote region");
  }
  return Status::Ok();
}

Status SimConnection::Post(std::span<const WorkItem> items) {
  if (closed_ || peer_left_) return Status(Code::kUnavailable, "connection is closed");
  if (check_) return Status(Code::kFailedPrecondition, "the peer has not spoken yet");
  if (items.empty()) return Status::Ok();
  for (const WorkItem& item : items) SIMM_RETURN_IF_ERROR(CheckItem(item));
  if (items.back().completion == nullptr) {
    return Status(Code::kInvalidArgument, "the last item of a Post needs a completion");
  }
  for (const WorkItem& item : items) {
    Work& work = work_.emplace_back();
    work.item = item;
    work.local.assign(item.local.begin(), item.local.end());
    work.body.assign(item.message.body.begin(), item.message.body.end());
    work.payload.assign(item.message.payload.begin(), item.message.payload.end());
  }
  counters_.work_requests += items.size();
  ++counters_.doorbells;
  return Status::Ok();
}

Result<std::byte*> SimConnection::RemoteAt(const RemoteRegion& region, uint64_t offset, size_t size,
                                           uint8_t access) const {
  for (const RemoteChunk& chunk : region.chunks) {
    if (offset < chunk.offset || offset + size > chunk.offset + chunk.length) continue;
    const auto it = network_.regions_.find(chunk.key);
    if (it == network_.regions_.end() || (it->second.access & access) == 0 ||
        offset - chunk.offset + size > it->second.memory.size()) {
      break;
    }
    return it->second.memory.data() + (offset - chunk.offset);
  }
  return Status(Code::kFailedPrecondition, "remote access refused");
}

// One piece of a read or write; a refused access breaks the lane, as a queue pair does.
void SimConnection::StepOneSided(Work& work) {
  uint64_t skip = work.done;
  for (const MutableSegment& s : work.local) {
    if (skip >= s.size) {
      skip -= s.size;
      continue;
    }
    const uint64_t at = work.item.remote_offset + work.done;
    size_t n = std::min<uint64_t>(s.size - skip, kPieceBytes - at % kPieceBytes);
    for (const RemoteChunk& c : work.item.remote->chunks) {
      if (at >= c.offset && at < c.offset + c.length)
        n = std::min<uint64_t>(n, c.offset + c.length - at);
    }
    const bool read = work.item.op == Op::kRead;
    const auto remote = RemoteAt(*work.item.remote, at, n, read ? kRemoteRead : kRemoteWrite);
    if (!remote.ok()) {
      Fail(remote.status());
      return;
    }
    if (read) {
      CopyPiece(s.data + skip, *remote, n);
      counters_.bytes_in += n;
    } else {
      CopyPiece(*remote, s.data + skip, n);
      counters_.bytes_out += n;
    }
    work.done += n;
    break;
  }
  uint64_t total = 0;
  for (const MutableSegment& s : work.local) total += s.size;
  if (work.done == total) Finish(Status::Ok());
}

void SimConnection::StepSend(Work& work) {
  Arrival arrival{tag_, work.item.message.request_id, std::move(work.body), {}, std::nullopt};
  for (const ConstSegment& s : work.payload) {
    if (work.item.message.tap != nullptr && s.size > 0)
      work.item.message.tap->OnBytes({s.data, s.size});
    arrival.payload.insert(arrival.payload.end(), s.data, s.data + s.size);
  }
  if (work.item.message.tap != nullptr) arrival.trailer = work.item.message.tap->Trailer();
  counters_.bytes_out += arrival.body.size() + arrival.payload.size();
  ++counters_.messages_out;
  if (peer_ != nullptr) peer_->arrivals_.push_back(std::move(arrival));
  Finish(Status::Ok());
}

void SimConnection::StepOnce() {
  Work& work = work_.front();
  if (work.item.op == Op::kSend) {
    StepSend(work);
  } else {
    StepOneSided(work);
  }
}

void SimConnection::Finish(const Status& status) {
  completed_.emplace_back(work_.front().item.completion, status);
  work_.pop_front();
}

void SimConnection::Deliver(Arrival arrival) {
  if (check_) {
    if (Status s = check_(arrival.tag); !s.ok()) {
      Fail(s);
      return;
    }
    tag_ = arrival.tag;
    check_ = nullptr;
  }
  const PayloadTarget target =
      receiver_->OnMessage(arrival.request_id, arrival.body, arrival.payload.size());
  size_t at = 0;
  for (size_t i = 0; i < target.count && at < arrival.payload.size(); ++i) {
    const size_t n = std::min(target.segments[i].size, arrival.payload.size() - at);
    if (n == 0) continue;
    std::memcpy(target.segments[i].data, arrival.payload.data() + at, n);
    receiver_->OnPayload({target.segments[i].data, n});
    at += n;
  }
  counters_.bytes_in += arrival.body.size() + arrival.payload.size();
  ++counters_.messages_in;
  receiver_->OnMessageEnd(arrival.request_id, arrival.trailer);
}

bool SimConnection::Progress() {
  network_.Step();
  while (!closed_ && !completed_.empty()) {
    const auto [completion, status] = completed_.front();
    completed_.pop_front();
    ++counters_.completions;
    if (completion != nullptr) completion->OnComplete(status);
  }
  if (!closed_ && !paused_ && !arrivals_.empty()) {
    Arrival arrival = std::move(arrivals_.front());
    arrivals_.pop_front();
    Deliver(std::move(arrival));
  }
  if (!closed_ && peer_left_ && arrivals_.empty()) Fail(*peer_left_);
  return !closed_;
}

void SimConnection::Fail(const Status& why) {
  if (closed_) return;
  closed_ = true;
  if (peer_ != nullptr) {
    peer_->peer_left_ = Status(Code::kUnavailable, peer_name_ + " closed the connection");
    peer_->peer_ = nullptr;
    peer_ = nullptr;
  }
  std::deque<std::pair<Completion*, Status>> completed;
  completed.swap(completed_);
  for (const Work& work : work_) completed.emplace_back(work.item.completion, why);
  work_.clear();
  arrivals_.clear();
  for (const auto& [completion, status] : completed) {
    ++counters_.completions;
    if (completion != nullptr) completion->OnComplete(status);
  }
  if (receiver_ != nullptr) receiver_->OnClosed(why);
}

bool SimNetwork::Step() {
  std::vector<SimConnection*> ready;
  for (SimConnection* lane : lanes_) {
    if (lane->HasWork()) ready.push_back(lane);
  }
  if (ready.empty()) return false;
  ready[random_.Below(ready.size())]->StepOnce();
  return true;
}

class SimRegion final : public LocalRegion {
 public:
  SimRegion(SimNetwork& network, MutableByteSpan memory, uint8_t access)
      : network_(network), memory_(memory), key_(network.next_key_++) {
    network_.regions_[key_] = {memory, access};
  }
  ~SimRegion() override { network_.regions_.erase(key_); }
  MutableByteSpan memory() const override { return memory_; }
  RemoteRegion Describe() const override { return {{{0, memory_.size(), key_}}}; }

 private:
  SimNetwork& network_;
  const MutableByteSpan memory_;
  const uint64_t key_;
};

class SimAcceptor final : public Acceptor {
 public:
  SimAcceptor(SimNetwork& network, std::string endpoint, SessionCheck check)
      : network_(network), endpoint_(std::move(endpoint)) {
    listener_.check = std::move(check);
    network_.listeners_[endpoint_] = &listener_;
  }
  ~SimAcceptor() override { network_.listeners_.erase(endpoint_); }
  int PollFd() const override { return -1; }
  std::unique_ptr<Connection> Accept() override {
    if (listener_.waiting.empty()) return nullptr;
    auto connection = std::move(listener_.waiting.front());
    listener_.waiting.pop_front();
    return connection;
  }
  std::string Address() const override { return endpoint_; }

 private:
  SimNetwork& network_;
  const std::string endpoint_;
  SimNetwork::Listener listener_;
};

const Capabilities& SimTransport::capabilities() const { return kSimCapabilities; }

Result<std::unique_ptr<LocalRegion>> SimTransport::Register(MutableByteSpan memory,
                                                            uint8_t access) {
  if (memory.empty()) return Status(Code::kInvalidArgument, "no memory to register");
  return std::unique_ptr<LocalRegion>(std::make_unique<SimRegion>(network_, memory, access));
}

Result<std::unique_ptr<Connection>> SimTransport::Connect(const std::string& endpoint,
                                                          SessionTag tag, Duration) {
  const auto it = network_.listeners_.find(endpoint);
  if (it == network_.listeners_.end())
    return Status(Code::kUnavailable, "nobody listens at " + endpoint);
  auto near = std::make_unique<SimConnection>(network_, endpoint, tag);
  auto far = std::make_unique<SimConnection>(network_, "client of " + endpoint, SessionTag{});
  near->Join(far.get(), nullptr);
  far->Join(near.get(), it->second->check);
  it->second->waiting.push_back(std::move(far));
  return std::unique_ptr<Connection>(std::move(near));
}

Result<std::unique_ptr<Acceptor>> SimTransport::Listen(const std::string& endpoint,
                                                       const std::string& flag,
                                                       SessionCheck check) {
  if (network_.listeners_.count(endpoint) > 0) {
    return Status(Code::kUnavailable,
                  "endpoint " + endpoint + " is taken; choose another with " + flag);
  }
  return std::unique_ptr<Acceptor>(
      std::make_unique<SimAcceptor>(network_, endpoint, std::move(check)));
}

}  // namespace simm::transport
