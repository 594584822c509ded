#include "tests/sim/one_sided_world.h"

namespace simm::sim {

using namespace std::chrono_literals;
using protocol::MessageBuffer;
using protocol::MessageType;
using transport::Op;
using transport::WorkItem;

std::shared_ptr<const RouteTable> OwnEverything() {
  static const std::shared_ptr<const RouteTable> table = [] {
    MapContents contents;
    contents.version = {{1, 2}, 1, 5};
    ServerRecord record;
    record.id = kSelf;
    record.name = "s";
    record.control_address = record.data_address = "127.0.0.1:1";
    record.weight = 1;
    contents.servers = {record};
    contents.namespaces = {{0, kNamespace}};
    contents.owners.assign(limits::kShards, {kSelf, kNoServer});
    return *RouteTable::Create(std::move(contents));
  }();
  return table;
}

void Counts::Add(const Counts& o) {
  puts += o.puts, exists += o.exists, gone += o.gone, corrupt += o.corrupt;
  crashes += o.crashes, resolves += o.resolves, resolved_ok += o.resolved_ok;
  recalls += o.recalls, returns += o.returns, hits += o.hits, misses += o.misses;
  wrong += o.wrong, retries += o.retries, asked += o.asked;
}

// ---- server

Server::Server(transport::Transport& transport, bool verify_puts, Wrap wrap)
    : wrap_(std::move(wrap)) {
  pool = std::move(*dataserver::Pool::Create(
      {.memory_bytes = 1 << 20, .mean_value_bytes = 16 << 10, .path = "", .prefault = false},
      clock));
  sessions = std::make_unique<dataserver::SessionTable>(clock, pool->incarnation(),
                                                        limits::kSessionTimeout);
  state = std::make_unique<dataserver::OneSidedState>(*pool, metrics);
  map_.Set(OwnEverything());
  context_ =
      std::make_unique<dataserver::DataContext>(dataserver::DataContext{.pool = *pool,
                                                                        .sessions = *sessions,
                                                                        .map = map_,
                                                                        .metrics = metrics,
                                                                        .clock = clock,
                                                                        .self = self_,
                                                                        .verify_puts = verify_puts,
                                                                        .one_sided = state.get()});
  index_region = *transport.Register(
      {const_cast<std::byte*>(pool->index_memory().data()), pool->index_memory().size()},
      transport::kRemoteRead);
  data_region =
      *transport.Register(pool->data_memory(), transport::kRemoteRead | transport::kRemoteWrite);
  index = index_region->Describe();
  data = data_region->Describe();
  acceptor_ = *transport.Listen("server", "--listen", [this](const transport::SessionTag& tag) {
    return sessions->Check(tag);
  });
  last_tick_ = clock.Now();
}

Server::~Server() { connections_.clear(); }

void Server::Tick() {
  last_tick_ = clock.Now();
  if (sessions->Expire() > 0) state->EndPins(*sessions);
  state->Tick(last_tick_);
  for (auto& connection : connections_) connection->Tick(last_tick_);
  std::erase_if(connections_, [](const auto& c) { return c->connection().closed(); });
}

void Server::Step(Random& random) {
  while (auto connection = acceptor_->Accept()) {
    if (wrap_) connection = wrap_(std::move(connection));
    connections_.push_back(
        std::make_unique<dataserver::DataSession>(*context_, std::move(connection)));
  }
  if (clock.Now() - last_tick_ >= limits::kDataTick) Tick();
  if (connections_.empty()) return;
  const size_t i = random.Below(connections_.size());
  if (!connections_[i]->Progress()) {
    connections_.erase(connections_.begin() + static_cast<ptrdiff_t>(i));
  }
}

void Server::Rest(Duration time) {
  for (const Instant end = clock.Now() + time; clock.Now() < end;) {
    clock.Advance(limits::kDataTick);
    Tick();
    while (pool->EvictSome()) {
    }
    for (int round = 0; round < 50; ++round) {  // all that has arrived
      std::erase_if(connections_, [](const auto& connection) { return !connection->Progress(); });
    }
  }
}

// Each granted byte belongs to a lease: no extent is lost, none is in two.
void Server::CheckBooks() {
  const auto usage = pool->Usage();
  EXPECT_EQ(usage.granted_bytes, state->leases.totals().bytes);
  const Status audit = pool->Audit();
  EXPECT_TRUE(audit.ok()) << audit.ToString();
}

// ---- a client's lane

Lane::Lane(transport::Transport& transport, Server& server, History& history, Counts& counts,
           uint64_t session)
    : server_(server), history_(history), counts_(counts), buffer_(24 << 10) {
  region_ = *transport.Register(buffer_, transport::kLocalOnly);
  connection_ = *transport.Connect("server", {session, server.pool->incarnation()}, 1s);
  connection_->Start(this);
}

Lane::~Lane() { connection_->Close(); }

void Lane::Send(ByteSpan body) {
  WorkItem item;
  item.message.body = body;
  item.completion = &sent_;
  (void)connection_->Post({&item, 1});
}

void Lane::Ping() {
  MessageBuffer buffer;
  Send(protocol::EncodePing({1}, buffer));
}

void Lane::BeginPut(Put put, Random& random) {
  put_ = std::move(put);
  waiting_ = true;
  const uint64_t bytes = protocol::ExtentBytes(put_->key.size(), put_->size);
  for (size_t i = 0; i < stock_.size(); ++i) {
    if (stock_[i].bytes != bytes) continue;
    put_->extent = stock_[i];
    stock_.erase(stock_.begin() + static_cast<ptrdiff_t>(i));
    return WriteAndCommit();
  }
  MessageBuffer buffer;
  Send(protocol::Encode(protocol::LeaseRequest{bytes, static_cast<uint32_t>(1 + random.Below(3))},
                        buffer));
}

void Lane::OnLeased(const protocol::LeaseReply& reply) {
  id_ = reply.lane;
  for (const protocol::LeaseRange& range : reply.ranges) {
    for (uint32_t i = 0; i < range.count; ++i) {
      stock_.push_back({reply.lease, range.first_generation + i,
                        range.offset + i * range.extent_bytes, range.extent_bytes});
    }
  }
  if (!put_ || put_->posted) return;
  if (reply.ranges.empty()) {
    put_.reset();
    waiting_ = false;
    return;
  }
  put_->extent = stock_.back();
  stock_.pop_back();
  WriteAndCommit();
}

void Lane::WriteAndCommit() {
  Put& put = *put_;
  ASSERT_EQ(in_flight_, 0) << "the buffer is the transport's";
  const uint64_t head = protocol::ExtentHeadBytes(put.key.size());
  std::fill(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(head), std::byte{0});
  protocol::ExtentHeader header;
  header.generation = put.extent.generation;
  header.value_bytes = static_cast<uint32_t>(put.size);
  header.key_bytes = static_cast<uint16_t>(put.key.size());
  std::memcpy(buffer_.data(), &header, sizeof header);
  std::memcpy(buffer_.data() + sizeof header, put.key.data(), put.key.size());
  const MutableByteSpan value = MutableByteSpan(buffer_).subspan(head, put.size);
  dataserver::FillValue(value, put.key, put.version);

  protocol::CommitRequest commit;
  commit.mode = put.replace ? 1 : 0;
  commit.value_bytes = header.value_bytes;
  commit.lease = put.extent.lease;
  commit.generation = put.extent.generation;
  commit.offset = put.extent.offset;
  commit.checksum = Xxh3_64(value);
  commit.key = put.key;
  MessageBuffer buffer;
  const transport::MutableSegment local = {buffer_.data(), head + put.size, region_.get()};
  WorkItem items[2];
  items[0].op = Op::kWrite;
  items[0].local = {&local, 1};
  items[0].remote = &server_.data;
  items[0].remote_offset = put.extent.offset;
  items[1].message.body = protocol::Encode(commit, buffer);
  items[1].completion = this;
  const std::span<const WorkItem> all(items);
  if (connection_->Post(put.damaged ? all.subspan(1) : all).ok()) ++in_flight_;
  put.posted = true;
  if (!put.damaged) history_.Posted(put.key, put.version, put.size);
}

void Lane::OnPutReply(const protocol::PutReply& reply) {
  ASSERT_TRUE(waiting_);
  waiting_ = false;
  const bool resolved = resolving_.has_value();
  const Put put =
      resolved ? *std::exchange(resolving_, std::nullopt) : *std::exchange(put_, std::nullopt);
  if (put.damaged) {
    EXPECT_NE(reply.code, Code::kOk) << "published what was not written";
    counts_.corrupt += reply.code == Code::kCorrupt;
    return;
  }
  switch (reply.code) {
    case Code::kOk:
      EXPECT_EQ(reply.generation, put.extent.generation);
      ++(resolved ? counts_.resolved_ok : counts_.puts);
      history_.Acknowledged(put.key);
      break;
    case Code::kExists:
      ++counts_.exists;
      history_.Acknowledged(put.key);
      history_.Dead(put.key, put.version);
      break;
    case Code::kLeaseGone:
      ++counts_.gone;
      // Published and evicted since, or never: from now on it is not to be seen.
      history_.Dead(put.key, put.version);
      break;
    default:
      EXPECT_EQ(reply.code, Code::kBusy);
      history_.Dead(put.key, put.version);
  }
}

void Lane::ReturnIdle(uint64_t lease) {
  std::map<uint64_t, protocol::ReturnRequest> returns;
  std::erase_if(stock_, [&](const Extent& e) {
    if (lease != 0 && e.lease != lease) return false;
    auto& request = returns[e.lease];
    request.lease = e.lease;
    request.ranges.push_back({e.offset, e.generation, e.bytes, 1});
    return true;
  });
  for (const auto& [id, request] : returns) {
    MessageBuffer buffer;
    Send(protocol::Encode(request, buffer));
    ++counts_.returns;
  }
}

void Lane::Resolve(uint64_t lane, const Put& put) {
  ++counts_.resolves;
  resolving_ = put;
  waiting_ = true;
  protocol::ResolveRequest request;
  request.lane = lane;
  request.generation = put.extent.generation;
  request.key = put.key;
  MessageBuffer buffer;
  Send(protocol::Encode(request, buffer));
}

Status Lane::Read(const transport::RemoteRegion& region, uint64_t offset,
                  std::vector<transport::MutableSegment> local, const std::function<void()>& turn) {
  struct Done : transport::Completion {
    void OnComplete(const Status& s) override { status = s, done = true; }
    Status status;
    bool done = false;
  } done;
  WorkItem item;
  item.op = Op::kRead;
  item.local = local;
  item.remote = &region;
  item.remote_offset = offset;
  item.completion = &done;
  if (Status s = connection_->Post({&item, 1}); !s.ok()) return s;
  while (!done.done) {
    turn();
    connection_->Progress();
  }
  return done.status;
}

Result<protocol::Location> Lane::Lookup(const std::string& key, const std::function<void()>& turn) {
  protocol::KeysRequest request;
  request.type = MessageType::kLookup;
  request.keys = {{key, 0}};
  MessageBuffer buffer;
  location_.reset();
  Send(protocol::Encode(request, buffer));
  while (!location_ && !closed()) {
    turn();
    connection_->Progress();
  }
  if (!location_) return Status(Code::kUnavailable, "lane lost");
  return *location_;
}

transport::PayloadTarget Lane::OnMessage(uint64_t, ByteSpan body, uint64_t) {
  protocol::LeaseReply lease;
  protocol::PutReply put;
  protocol::Recall recall;
  protocol::Location location;
  if (protocol::Decode(body, &lease).ok()) OnLeased(lease);
  if (protocol::Decode(body, &put).ok()) OnPutReply(put);
  if (protocol::Decode(body, &location).ok()) location_ = location;
  if (protocol::Decode(body, &recall).ok()) {
    ++counts_.recalls;
    if (obedient) ReturnIdle(recall.lease);
  }
  return {};
}

}  // namespace simm::sim
