// The data port of a data server and the lanes of a client, threads and sockets and all, without
// the control plane: what the two say to each other, stale maps, damaged bytes, broken peers. Runs
// under ThreadSanitizer.

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "client/lane.h"
#include "client/message_exchange.h"
#include "common/base/random.h"
#include "common/transport/tcp/tcp_transport.h"
#include "dataserver/data_service.h"

namespace simm {
namespace {

using namespace std::chrono_literals;
using client::CallItem;
using client::CallShape;
using client::Lane;
using client::MessageExchange;
using dataserver::Pool;
using protocol::MessageType;

constexpr ServerId kSelf = 7;
constexpr char kNamespace[] = "default";

// Owns every shard, or only the even ones.
std::shared_ptr<const RouteTable> MakeTable(uint64_t epoch, bool only_even) {
  MapContents contents;
  contents.version = {{1, 2}, 1, epoch};
  for (const ServerId id : {kSelf, kSelf + 1}) {
    ServerRecord record;
    record.id = id;
    record.name = "s" + std::to_string(id);
    record.control_address = record.data_address = "127.0.0.1:1";
    record.weight = 1;
    contents.servers.push_back(record);
  }
  contents.namespaces = {{0, kNamespace}};
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    contents.owners.push_back({!only_even || shard % 2 == 0 ? kSelf : kSelf + 1, kNoServer});
  }
  auto table = RouteTable::Create(std::move(contents));
  EXPECT_TRUE(table.ok()) << table.status().ToString();
  return *table;
}

class DataPortTest : public testing::Test {
 protected:
  void SetUp() override { Start(true); }
  void TearDown() override {
    stop_evictor_ = true;
    if (evictor_.joinable()) evictor_.join();
    if (service_) service_->Stop(Duration::zero());
    if (pool_) {
      const auto usage = pool_->Usage();
      EXPECT_EQ(usage.granted_bytes, 0u);
      EXPECT_EQ(usage.pinned_bytes, 0u);
      EXPECT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
    }
  }
  void Start(bool verify_puts) {
    pool_ = std::move(*Pool::Create(
        {.memory_bytes = 32 << 20, .mean_value_bytes = 16 << 10, .path = "", .prefault = false},
        MonotonicClock::Get()));
    map_.Set(MakeTable(5, false));
    context_ = std::make_unique<dataserver::DataContext>(dataserver::DataContext{
        *pool_, sessions_, map_, metrics_, MonotonicClock::Get(), self_, verify_puts});
    auto acceptor =
        tcp_.Listen("127.0.0.1:0", "--data-listen",
                    [this](const transport::SessionTag& tag) { return sessions_.Check(tag); });
    address_ = (*acceptor)->Address();
    std::vector<std::unique_ptr<transport::Acceptor>> acceptors;
    acceptors.push_back(std::move(*acceptor));
    service_ = std::make_unique<dataserver::DataService>(*context_, std::move(acceptors), 2);
    evictor_ = std::thread([this] {
      while (!stop_evictor_) {
        pool_->WaitForEvictionWork(10ms);
        while (pool_->EvictSome()) {
        }
      }
    });
  }
  std::unique_ptr<Lane> OpenLane(uint64_t session = 0) {
    if (session == 0) session = sessions_.Open("test");
    return std::make_unique<Lane>(*tcp_.Connect(address_, {session, 3}, 2s), session);
  }

  // The keys are borrowed: not those of a temporary.
  static std::vector<CallItem> Items(std::vector<std::string>&&) = delete;
  static std::vector<CallItem> Items(const std::vector<std::string>& keys) {
    std::vector<CallItem> items(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      items[i].key = keys[i];
      items[i].hash = HashKey(keys[i], NamespaceSeed(kNamespace));
    }
    return items;
  }
  // One exchange on one lane, to its end.
  std::unique_ptr<MessageExchange> Run(Lane& lane, const CallShape& shape,
                                       std::vector<CallItem>& items) {
    std::vector<CallItem*> pointers;
    for (CallItem& item : items) pointers.push_back(&item);
    auto exchange = std::make_unique<MessageExchange>(shape, pointers, stats_);
    lane.Attach(exchange.get());
    const Instant end = MonotonicClock::Get().Now() + 20s;
    if (exchange->Begin(lane).ok()) {
      while (!exchange->finished() && MonotonicClock::Get().Now() < end) {
        lane.connection().Progress();
        if (exchange->finished()) break;
        pollfd p{lane.connection().PollFd(), lane.connection().PollEvents(), 0};
        poll(&p, 1, 100);
      }
    }
    EXPECT_TRUE(exchange->finished());
    lane.Detach();
    return exchange;
  }
  Code Put(Lane& lane, const std::string& key, const std::vector<std::byte>& value,
           bool replace = false) {
    const std::vector<std::string> name = {key};
    auto items = Items(name);
    items[0].value = value.data();
    items[0].size = value.size();
    CallShape shape;
    shape.type = MessageType::kPut;
    shape.replace = replace;
    Run(lane, shape, items);
    return items[0].result.code;
  }
  KeyResult Get(Lane& lane, const std::string& key, std::vector<std::byte>& buffer) {
    const std::vector<std::string> name = {key};
    auto items = Items(name);
    items[0].buffer = buffer.data();
    items[0].size = buffer.size();
    CallShape shape;
    shape.type = MessageType::kGet;
    Run(lane, shape, items);
    return items[0].result;
  }
  static std::vector<std::byte> Bytes(size_t n, uint64_t seed) {
    Random random(seed);
    std::vector<std::byte> bytes(n);
    for (auto& b : bytes) b = static_cast<std::byte>(random());
    return bytes;
  }

  std::atomic<ServerId> self_{kSelf};
  dataserver::SessionTable sessions_{MonotonicClock::Get(), 3, 10s};
  MapHolder map_;
  dataserver::DataMetrics metrics_;
  transport::TcpTransport tcp_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<dataserver::DataContext> context_;
  std::unique_ptr<dataserver::DataService> service_;
  std::string address_;
  std::atomic<bool> stop_evictor_{false};
  std::thread evictor_;
  client::StatsCounters stats_;
};

TEST_F(DataPortTest, ValuesOfAllSizesComeBack) {
  auto lane = OpenLane();
  for (const size_t size :
       {size_t{0}, size_t{1}, size_t{100}, size_t{4096}, size_t{300'000}, size_t{10'000'000}}) {
    const auto value = Bytes(size, size);
    const std::string key = "size-" + std::to_string(size);
    ASSERT_EQ(Put(*lane, key, value), Code::kOk);
    std::vector<std::byte> buffer(size);
    ASSERT_EQ(Get(*lane, key, buffer).code, Code::kOk);
    EXPECT_EQ(buffer, value);
  }
  EXPECT_EQ(metrics_.Keys(dataserver::DataOp::kPut, Code::kOk), 6u);
  EXPECT_EQ(metrics_.Keys(dataserver::DataOp::kGet, Code::kOk), 6u);
}

TEST_F(DataPortTest, HintsOfAPutLieBesideTheValue) {
  auto lane = OpenLane();
  const std::vector<std::string> name = {"k"};
  const auto value = Bytes(1000, 1);
  auto items = Items(name);
  items[0].value = value.data();
  items[0].size = value.size();
  items[0].parent = HashKey("before k", NamespaceSeed(kNamespace));
  items[0].depth = 12;
  CallShape shape;
  shape.type = MessageType::kPut;
  Run(*lane, shape, items);
  ASSERT_EQ(items[0].result.code, Code::kOk);
  dataserver::PinnedValue pinned;
  ASSERT_EQ(pool_->Acquire(items[0].hash, 0, "k", &pinned), Code::kOk);
  protocol::ExtentHeader header;
  std::memcpy(&header, pinned.head.data(), sizeof header);
  pool_->Release(pinned);
  EXPECT_EQ(header.depth, 12u);
  EXPECT_EQ(header.parent_high, items[0].parent.high);
  EXPECT_EQ(header.parent_low, items[0].parent.low);
}

TEST_F(DataPortTest, PinsHoldForTheirTimeOrTheirSession) {
  const uint64_t session = sessions_.Open("pinning");
  dataserver::OneSidedState state(*pool_, metrics_);
  const auto held = [&](uint64_t of) {
    dataserver::PinnedValue pinned;
    EXPECT_EQ(pool_->Acquire(HashKey("k", NamespaceSeed(kNamespace)), 0, "k", &pinned), Code::kOk);
    return state.pins.Add(of, pinned, MonotonicClock::Get().Now() + 60s);
  };
  auto lane = OpenLane(session);
  ASSERT_EQ(Put(*lane, "k", Bytes(1000, 1)), Code::kOk);
  ASSERT_EQ(held(session), dataserver::PinTable::Added::kHeld);
  ASSERT_EQ(held(session + 1), dataserver::PinTable::Added::kHeld) << "its session is not open";
  state.EndPins(sessions_);
  EXPECT_EQ(state.pins.size(), 1u);
  pool_->Remove(HashKey("k", NamespaceSeed(kNamespace)), 0, "k");
  EXPECT_GT(pool_->Usage().pinned_bytes, 0u);
  state.Tick(MonotonicClock::Get().Now() + 61s);
  EXPECT_EQ(pool_->Usage().pinned_bytes, 0u);
}

TEST_F(DataPortTest, AKeyOfAnotherOwnerIsRefusedWithTheServersEpochAndOthersAreServed) {
  auto lane = OpenLane();
  std::vector<std::string> keys;
  for (int i = 0; i < 300; ++i) keys.push_back("key-" + std::to_string(i));
  for (const auto& key : keys) ASSERT_EQ(Put(*lane, key, Bytes(100, 1)), Code::kOk);
  map_.Set(MakeTable(6, true));
  std::vector<std::vector<std::byte>> buffers(keys.size(), std::vector<std::byte>(100));
  auto items = Items(keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    items[i].buffer = buffers[i].data();
    items[i].size = 100;
  }
  CallShape shape;
  shape.type = MessageType::kGet;
  const auto exchange = Run(*lane, shape, items);
  EXPECT_EQ(exchange->server_map().epoch, 6u);
  for (const CallItem& item : items) {
    if (ShardOf(item.hash) % 2 == 0) {
      EXPECT_TRUE(item.done);
      EXPECT_EQ(item.result.code, Code::kOk);
    } else {
      EXPECT_FALSE(item.done) << "to be asked of its owner";
    }
  }
}

TEST_F(DataPortTest, DamagedBytesAreAMissAndAreDroppedOnAScrub) {
  auto lane = OpenLane();
  const auto value = Bytes(100'000, 1);
  ASSERT_EQ(Put(*lane, "k", value), Code::kOk);
  const Hash128 hash = HashKey("k", NamespaceSeed(kNamespace));
  dataserver::PinnedValue pinned;
  ASSERT_EQ(pool_->Acquire(hash, 0, "k", &pinned), Code::kOk);
  const_cast<std::byte&>(pinned.value[50'000]) ^= std::byte{1};
  pool_->Release(pinned);
  std::vector<std::byte> buffer(value.size());
  EXPECT_EQ(Get(*lane, "k", buffer).code, Code::kMiss);
  EXPECT_EQ(stats_.corrupt.load(), 1u);
  const std::vector<std::string> name = {"k"};
  auto items = Items(name);
  CallShape shape;
  shape.type = MessageType::kScrub;
  Run(*lane, shape, items);
  EXPECT_EQ(items[0].result.code, Code::kOk) << "dropped";
  ASSERT_EQ(Put(*lane, "k", value), Code::kOk) << "no longer in the way of a good value";
  EXPECT_EQ(Get(*lane, "k", buffer).code, Code::kOk);
}

TEST_F(DataPortTest, AnotherKeysExtentIsAMiss) {
  auto lane = OpenLane();
  ASSERT_EQ(Put(*lane, "k", Bytes(1000, 1)), Code::kOk);
  const Hash128 hash = HashKey("k", NamespaceSeed(kNamespace));
  dataserver::PinnedValue pinned;
  ASSERT_EQ(pool_->Acquire(hash, 0, "k", &pinned), Code::kOk);
  const_cast<std::byte&>(pinned.head[sizeof(protocol::ExtentHeader)]) = std::byte{'j'};
  std::vector<std::byte> buffer(1000);
  EXPECT_NE(Get(*lane, "k", buffer).code, Code::kOk);
  const_cast<std::byte&>(pinned.head[sizeof(protocol::ExtentHeader)]) = std::byte{'k'};
  pool_->Release(pinned);
}

TEST_F(DataPortTest, APutWhoseTrailerDoesNotMatchIsNotStored) {
  auto lane = OpenLane();
  const auto value = Bytes(5000, 1);
  struct LyingTap : transport::PayloadTap {
    void OnBytes(ByteSpan) override {}
    uint64_t Trailer() override { return 12345; }
  } tap;
  struct Taker : transport::Completion, client::LaneUser {
    void OnComplete(const Status&) override {}
    Result<transport::PayloadTarget> OnReplyBegin(uint64_t, ByteSpan body, uint64_t) override {
      EXPECT_TRUE(protocol::Decode(body, &reply).ok());
      return transport::PayloadTarget{};
    }
    void OnReplyPayload(ByteSpan) override {}
    Status OnReplyEnd(uint64_t) override {
      ++replies;
      return Status::Ok();
    }
    void OnLaneClosed(const Status&) override {}
    protocol::PutReply reply;
    int replies = 0;
  } taker;
  lane->Attach(&taker);
  protocol::PutRequest put;
  put.value_bytes = 5000;
  put.key = "k";
  protocol::MessageBuffer buffer;
  const transport::ConstSegment payload = {value.data(), value.size(), nullptr};
  transport::WorkItem item;
  item.message = {.request_id = 1,
                  .body = protocol::Encode(put, buffer),
                  .payload = {&payload, 1},
                  .tap = &tap};
  item.completion = &taker;
  ASSERT_TRUE(lane->connection().Post({&item, 1}).ok());
  const Instant end = MonotonicClock::Get().Now() + 5s;
  while (taker.replies == 0 && MonotonicClock::Get().Now() < end) lane->connection().Progress();
  EXPECT_EQ(taker.reply.code, Code::kCorrupt);
  lane->Detach();
  const std::vector<std::string> name = {"k"};
  auto items = Items(name);
  CallShape shape;
  shape.type = MessageType::kExists;
  Run(*lane, shape, items);
  EXPECT_EQ(items[0].result.code, Code::kMiss);
}

TEST_F(DataPortTest, AConnectionCutInMidPutFreesItsExtent) {
  const auto value = Bytes(8'000'000, 1);
  for (int round = 0; round < 5; ++round) {
    auto lane = OpenLane();
    const std::vector<std::string> name = {"half"};
    auto items = Items(name);
    items[0].value = value.data();
    items[0].size = value.size();
    CallShape shape;
    shape.type = MessageType::kPut;
    MessageExchange exchange(shape, {items.data()}, stats_);
    lane->Attach(&exchange);
    ASSERT_TRUE(exchange.Begin(*lane).ok());
    const Instant end = MonotonicClock::Get().Now() + 5s;
    while (pool_->Usage().granted_bytes == 0 && !exchange.finished() &&
           MonotonicClock::Get().Now() < end) {
      lane->connection().Progress();
    }
    lane->connection().Close();
    EXPECT_TRUE(exchange.failed());
    EXPECT_FALSE(exchange.unsent());
  }
  const Instant end = MonotonicClock::Get().Now() + 5s;
  while (pool_->Usage().granted_bytes != 0 && MonotonicClock::Get().Now() < end)
    std::this_thread::yield();
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
}

TEST_F(DataPortTest, AnUnknownOrOldSessionIsRefused) {
  auto stranger = OpenLane(424242);
  const std::vector<std::string> name = {"k"};
  auto items = Items(name);
  CallShape shape;
  shape.type = MessageType::kExists;
  EXPECT_TRUE(Run(*stranger, shape, items)->failed());
  auto lane = std::make_unique<Lane>(*tcp_.Connect(address_, {sessions_.Open("x"), 2}, 2s), 1);
  EXPECT_TRUE(Run(*lane, shape, items)->failed()) << "an earlier incarnation";
  EXPECT_FALSE(items[0].done);
}

TEST_F(DataPortTest, DrainFindsTheEndOfALateAnswer) {
  auto lane = OpenLane();
  const auto value = Bytes(4'000'000, 1);
  std::vector<std::string> keys;
  for (int i = 0; i < 5; ++i) {
    keys.push_back("k" + std::to_string(i));
    ASSERT_EQ(Put(*lane, keys.back(), value), Code::kOk);
  }
  auto items = Items(keys);
  std::vector<std::byte> buffer(value.size() * keys.size());
  for (size_t i = 0; i < items.size(); ++i) {
    items[i].buffer = buffer.data() + i * value.size();
    items[i].size = value.size();
  }
  CallShape shape;
  shape.type = MessageType::kGet;
  {
    std::vector<CallItem*> pointers;
    for (CallItem& item : items) pointers.push_back(&item);
    MessageExchange exchange(shape, pointers, stats_);
    lane->Attach(&exchange);
    ASSERT_TRUE(exchange.Begin(*lane).ok());
    while (lane->connection().counters().bytes_in < 1'000'000) lane->connection().Progress();
    lane->Detach();
  }
  std::fill(buffer.begin(), buffer.end(), std::byte{0x5a});
  EXPECT_FALSE(lane->Drain(2s, 1000)) << "more than allowed was under way";
  ASSERT_TRUE(lane->Drain(5s, 1 << 30));
  EXPECT_TRUE(
      std::all_of(buffer.begin(), buffer.end(), [](std::byte b) { return b == std::byte{0x5a}; }));
  std::vector<std::byte> one(value.size());
  EXPECT_EQ(Get(*lane, keys[0], one).code, Code::kOk) << "the lane is as good as new";
  EXPECT_EQ(one, value);
}

TEST_F(DataPortTest, ManyLanesUnderEvictionSeeOnlyRightBytes) {
  std::atomic<uint64_t> wrong{0}, hits{0}, failed{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto lane = OpenLane();
      Random random(t);
      for (int i = 0; i < 300; ++i) {
        const uint64_t id = random.Below(120);
        const auto value = Bytes(200'000 + id * 3000, id);
        const Code put = Put(*lane, "k" + std::to_string(id), value, random.OneIn(3));
        failed += put != Code::kOk && put != Code::kExists ? 1 : 0;
        const uint64_t other = random.Below(120);
        std::vector<std::byte> buffer(200'000 + other * 3000);
        if (Get(*lane, "k" + std::to_string(other), buffer).code != Code::kOk) continue;
        ++hits;
        wrong += buffer == Bytes(buffer.size(), other) ? 0 : 1;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_EQ(failed.load(), 0u);
  EXPECT_GT(hits.load(), 50u);
  EXPECT_EQ(stats_.corrupt.load(), 0u);
}

}  // namespace
}  // namespace simm
