#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/routing/key_hash.h"
#include "common/transport/sim/sim_transport.h"
#include "dataserver/data_session.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/wrapped_connection.h"

namespace simm {

using namespace std::chrono_literals;
using dataserver::DataSession;
using dataserver::Pool;
using protocol::MessageBuffer;
using transport::Op;
using transport::WorkItem;

inline constexpr ServerId kSelf = 7;
inline constexpr char kNamespace[] = "default";
inline constexpr uint64_t kValue = 1000;

inline Hash128 HashOfKey(std::string_view key) { return HashKey(key, NamespaceSeed(kNamespace)); }

// Every shard is this server's, or none.
inline std::shared_ptr<const RouteTable> MakeTable(bool own) {
  MapContents contents;
  contents.version = {{1, 2}, 1, 5};
  for (const ServerId id : {kSelf, kSelf + 1}) {
    ServerRecord record;
    record.id = id;
    record.name = "s" + std::to_string(id);
    record.control_address = record.data_address = "127.0.0.1:1";
    record.weight = 1;
    contents.servers.push_back(record);
  }
  contents.namespaces = {{0, kNamespace}};
  contents.owners.assign(limits::kShards, {own ? kSelf : kSelf + 1, kNoServer});
  return *RouteTable::Create(std::move(contents));
}

// A network of its own, so that each can be driven by its own thread.
struct Wire {
  Wire(Pool& pool, dataserver::SessionTable& sessions) : network(1), transport(network) {
    data_region =
        *transport.Register(pool.data_memory(), transport::kRemoteRead | transport::kRemoteWrite);
    data = data_region->Describe();
    acceptor = *transport.Listen("server", "--listen", [&sessions](const transport::SessionTag& t) {
      return sessions.Check(t);
    });
  }
  transport::SimNetwork network;
  transport::SimTransport transport;
  std::unique_ptr<transport::LocalRegion> data_region;
  transport::RemoteRegion data;
  std::unique_ptr<transport::Acceptor> acceptor;
};

// The client's end and the server's session of one connection.
class Peer final : public transport::Receiver, private transport::Completion {
 public:
  Peer(Wire& wire, dataserver::DataContext& context, uint64_t session, bool one_sided = true,
       std::shared_ptr<transport::PeerProcess> process = nullptr)
      : wire_(wire), memory_(64 << 10) {
    region_ = *wire.transport.Register(memory_, transport::kLocalOnly);
    near_ = *wire.transport.Connect("server", {session, context.pool.incarnation()}, 1s);
    near_->Start(this);
    transport::Capabilities capabilities = wire.transport.capabilities();
    capabilities.one_sided = one_sided;
    session_ = std::make_unique<DataSession>(
        context, std::make_unique<WrappedConnection>(wire.acceptor->Accept(), capabilities,
                                                     std::move(process)));
  }
  ~Peer() override { near_->Close(); }

  // Lets both ends move until nothing happens any more.
  void Settle() {
    for (int i = 0; i < 4000; ++i) {
      near_->Progress();
      if (session_ && !session_->Progress()) session_.reset();
    }
  }
  void Send(ByteSpan body) {
    WorkItem item;
    item.message.body = body;
    item.completion = this;
    (void)near_->Post({&item, 1});
  }
  template <typename Request>
  void Ask(const Request& request) {
    MessageBuffer buffer;
    Send(protocol::Encode(request, buffer));
    Settle();
  }
  void AskKeys(protocol::MessageType type, std::vector<std::string> keys) {
    protocol::KeysRequest request;
    request.type = type;
    for (const auto& key : keys) request.keys.push_back({key, 0});
    Ask(request);
  }
  template <typename Reply>
  Reply Last() {
    Reply reply;
    EXPECT_FALSE(messages.empty());
    if (!messages.empty()) {
      EXPECT_TRUE(protocol::Decode(messages.back(), &reply).ok());
    }
    return reply;
  }
  protocol::LeaseReply Lease(uint64_t bytes, uint32_t count = 1) {
    Ask(protocol::LeaseRequest{bytes, count});
    return Last<protocol::LeaseReply>();
  }
  protocol::CommitRequest CommitOf(const protocol::LeaseReply& lease, std::string_view key,
                                   uint64_t at = 0) {
    protocol::CommitRequest commit;
    commit.value_bytes = kValue;
    commit.lease = lease.lease;
    commit.generation = lease.ranges[0].first_generation + at;
    commit.offset = lease.ranges[0].offset + at * lease.ranges[0].extent_bytes;
    commit.key = key;
    commit.checksum = Xxh3_64(Fill(commit));
    return commit;
  }
  // Head and value of this commit into local memory; the value.
  MutableByteSpan Fill(const protocol::CommitRequest& commit) {
    protocol::ExtentHeader header;
    header.generation = commit.generation;
    header.value_bytes = commit.value_bytes;
    header.key_bytes = static_cast<uint16_t>(commit.key.size());
    header.namespace_id = commit.namespace_id;
    std::memcpy(memory_.data(), &header, sizeof header);
    std::memcpy(memory_.data() + sizeof header, commit.key.data(), commit.key.size());
    const MutableByteSpan value = MutableByteSpan(memory_).subspan(
        protocol::ExtentHeadBytes(commit.key.size()), commit.value_bytes);
    dataserver::FillValue(value, commit.key, 0);
    return value;
  }
  void Write(const protocol::CommitRequest& commit) {
    const transport::MutableSegment local = {
        memory_.data(), protocol::ExtentHeadBytes(commit.key.size()) + commit.value_bytes,
        region_.get()};
    WorkItem item;
    item.op = Op::kWrite;
    item.local = {&local, 1};
    item.remote = &wire_.data;
    item.remote_offset = commit.offset;
    item.completion = this;
    (void)near_->Post({&item, 1});
  }
  protocol::PutReply Commit(const protocol::CommitRequest& commit) {
    Write(commit);
    Ask(commit);
    return Last<protocol::PutReply>();
  }
  bool open() const { return session_ != nullptr; }
  DataSession& session() { return *session_; }
  transport::Connection& near() { return *near_; }
  void Tick(Instant now) {
    if (session_) session_->Tick(now);
    Settle();
  }

  std::vector<std::vector<std::byte>> messages;

  transport::PayloadTarget OnMessage(uint64_t, ByteSpan body, uint64_t) override {
    messages.emplace_back(body.begin(), body.end());
    return {};
  }
  void OnMessageEnd(uint64_t, std::optional<uint64_t>) override {}
  void OnClosed(const Status&) override {}

 private:
  void OnComplete(const Status&) override {}

  Wire& wire_;
  std::vector<std::byte> memory_;
  std::unique_ptr<transport::LocalRegion> region_;
  std::unique_ptr<transport::Connection> near_;
  std::unique_ptr<DataSession> session_;
};

class OneSidedTest : public testing::Test {
 protected:
  OneSidedTest() {
    pool_ = std::move(*Pool::Create(
        {.memory_bytes = 4 << 20, .mean_value_bytes = 4096, .path = "", .prefault = false},
        clock_));
    sessions_ = std::make_unique<dataserver::SessionTable>(clock_, pool_->incarnation(), 10s);
    map_.Set(MakeTable(true));
    state_ = std::make_unique<dataserver::OneSidedState>(*pool_, metrics_);
    context_ = std::make_unique<dataserver::DataContext>(
        dataserver::DataContext{.pool = *pool_,
                                .sessions = *sessions_,
                                .map = map_,
                                .metrics = metrics_,
                                .clock = clock_,
                                .self = self_,
                                .verify_puts = true,
                                .verify_commits = true,
                                .one_sided = state_.get()});
    wire_ = std::make_unique<Wire>(*pool_, *sessions_);
    session_ = sessions_->Open("test");
  }
  ~OneSidedTest() override {
    EXPECT_EQ(pool_->Usage().granted_bytes, state_->leases.totals().bytes);
    EXPECT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
  }
  std::unique_ptr<Peer> Open(uint64_t session = 0,
                             std::shared_ptr<transport::PeerProcess> process = nullptr) {
    return std::make_unique<Peer>(*wire_, *context_, session == 0 ? session_ : session, true,
                                  std::move(process));
  }
  static uint64_t BytesFor(const std::string& key) {
    return protocol::ExtentBytes(key.size(), kValue);
  }
  bool Holds(const std::string& key) {
    dataserver::PinnedValue pinned;
    if (pool_->Acquire(HashOfKey(key), 0, key, &pinned) != Code::kOk) return false;
    const bool right = dataserver::IsValue(pinned.value, key, 0);
    pool_->Release(pinned);
    return right;
  }
  void PutLocally(const std::string& key, uint64_t bytes) {
    auto grant = pool_->Allocate(HashOfKey(key), 0, key, bytes);
    ASSERT_TRUE(grant.ok());
    dataserver::FillValue(grant->value, key, 0);
    ASSERT_EQ(pool_->Commit(*grant, HashOfKey(key), 0, key, dataserver::PutMode::kReplace,
                            Xxh3_64(grant->value), {}),
              Code::kOk);
  }
  uint64_t Granted() const { return pool_->Usage().granted_bytes; }
  // Of the whole server, several times a second.
  void Pass(Duration time, std::vector<Peer*> peers, bool silent = false) {
    for (const Instant end = clock_.Now() + time; clock_.Now() < end;) {
      clock_.Advance(limits::kDataTick);
      if (!silent) sessions_->Touch(session_);
      sessions_->Expire();
      state_->Tick(clock_.Now());
      for (Peer* peer : peers) peer->Tick(clock_.Now());
      while (pool_->EvictSome()) {
      }
    }
  }

  FakeClock clock_;
  std::atomic<ServerId> self_{kSelf};
  MapHolder map_;
  dataserver::DataMetrics metrics_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<dataserver::SessionTable> sessions_;
  std::unique_ptr<dataserver::OneSidedState> state_;
  std::unique_ptr<dataserver::DataContext> context_;
  std::unique_ptr<Wire> wire_;
  uint64_t session_ = 0;
};

}  // namespace simm
