#include "common/rpc/map_watcher.h"

#include <gtest/gtest.h>

#include <chrono>

#include "common/base/mutex.h"
#include "common/rpc/control_services.h"
#include "tests/unit/rpc/sample_map.h"

namespace simm::rpc {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<ControlServer> Serve(MapSource& source, uint16_t port = 0) {
  ControlServerOptions options;
  options.listen = "127.0.0.1:" + std::to_string(port);
  options.maps = &source;
  Result<std::unique_ptr<ControlServer>> server = ControlServer::Start(std::move(options));
  EXPECT_TRUE(server.ok()) << server.status().ToString();
  return *std::move(server);
}
std::string AddressOf(const ControlServer& server) {
  return "127.0.0.1:" + std::to_string(server.port());
}

std::unique_ptr<MapWatcher> Watch(std::vector<std::string> addresses,
                                  WatcherKind kind = WatcherKind::kClient) {
  MapWatcherOptions options;
  options.addresses = std::move(addresses);
  options.kind = kind;
  Result<std::unique_ptr<MapWatcher>> watcher = MapWatcher::Start(std::move(options));
  EXPECT_TRUE(watcher.ok()) << watcher.status().ToString();
  return *std::move(watcher);
}
bool Reaches(const MapWatcher& watcher, uint64_t epoch) {
  return Eventually([&] {
    const Table table = watcher.Current();
    return table != nullptr && table->version().epoch == epoch;
  });
}

// A source that says anything, also what a MapBoard would refuse.
class LooseSource final : public MapSource {
 public:
  explicit LooseSource(Table table, bool from_manager = true)
      : from_manager_(from_manager), table_(std::move(table)) {}
  bool FromManager() const override { return from_manager_; }
  Table Current(WatcherKind) const override {
    MutexLock lock(mutex_);
    return table_;
  }
  uint64_t Subscribe(WatcherKind, Sink sink) override {
    MutexLock lock(mutex_);
    sink(table_);
    sinks_.push_back(std::move(sink));
    return sinks_.size();
  }
  void Unsubscribe(uint64_t token) override {
    MutexLock lock(mutex_);
    sinks_[token - 1] = nullptr;
  }
  void Say(Table table) {
    MutexLock lock(mutex_);
    table_ = std::move(table);
    for (const Sink& sink : sinks_) {
      if (sink) sink(table_);
    }
  }
  size_t streams() const {
    MutexLock lock(mutex_);
    return sinks_.size();
  }

 private:
  const bool from_manager_;
  mutable Mutex mutex_;
  Table table_ SIMM_GUARDED_BY(mutex_);
  std::vector<Sink> sinks_ SIMM_GUARDED_BY(mutex_);
};

TEST(MapWatcher, GetsASnapshotThenDiffs) {
  MapBoard board(true);
  board.Publish(SampleMap(1, 3));
  const auto server = Serve(board);
  Mutex mutex;
  std::vector<uint64_t> epochs;
  MapWatcherOptions options;
  options.addresses = {AddressOf(*server)};
  options.on_table = [&](Table table) {
    MutexLock lock(mutex);
    epochs.push_back(table->version().epoch);
  };
  auto watcher = *MapWatcher::Start(std::move(options));
  const auto first = watcher->WaitForMap(5s);
  ASSERT_TRUE(first.ok()) << first.status().ToString();
  ExpectSame(**first, *SampleMap(1, 3));
  for (uint64_t epoch = 2; epoch <= 20; ++epoch) {
    const Table next = SampleMap(epoch, 3 + static_cast<uint32_t>(epoch));
    board.Publish(next);
    ASSERT_TRUE(Reaches(*watcher, epoch));
    ExpectSame(*watcher->Current(), *next);
  }
  watcher->Stop();
  MutexLock lock(mutex);
  EXPECT_EQ(epochs.size(), 20U);
  EXPECT_TRUE(std::is_sorted(epochs.begin(), epochs.end()));
}

TEST(MapWatcher, AManyEpochsBurstEndsAtTheNewest) {
  MapBoard board(true);
  board.Publish(SampleMap(1, 3));
  const auto server = Serve(board);
  const auto watcher = Watch({AddressOf(*server)});
  ASSERT_TRUE(watcher->WaitForMap(5s).ok());
  for (uint64_t epoch = 2; epoch <= 300; ++epoch) {
    board.Publish(SampleMap(epoch, 1 + static_cast<uint32_t>(epoch % 7)));
  }
  ASSERT_TRUE(Reaches(*watcher, 300));
  ExpectSame(*watcher->Current(), *SampleMap(300, 1 + 300 % 7));
}

TEST(MapWatcher, AGapIsFilledByASnapshot) {
  LooseSource source(SampleMap(5, 3));
  auto server = Serve(source);
  const auto watcher = Watch({AddressOf(*server)});
  ASSERT_TRUE(Reaches(*watcher, 5));
  server->Shutdown(0s);
  const uint16_t port = server->port();
  server.reset();
  source.Say(SampleMap(90, 9));  // 85 epochs on: beyond kWatchQueueUpdates
  server = Serve(source, port);
  ASSERT_TRUE(Reaches(*watcher, 90));
  ExpectSame(*watcher->Current(), *SampleMap(90, 9));
}

TEST(MapWatcher, RefusesALowerEpochAndTakesTheNextHigher) {
  LooseSource source(SampleMap(10, 3));
  auto server = Serve(source);
  const uint16_t port = server->port();
  const auto watcher = Watch({AddressOf(*server)});
  ASSERT_TRUE(Reaches(*watcher, 10));
  server.reset();
  source.Say(SampleMap(9, 4));
  const size_t before = source.streams();
  server = Serve(source, port);
  ASSERT_TRUE(Eventually([&] { return source.streams() >= before + 3; })) << "it keeps asking";
  EXPECT_EQ(watcher->Current()->version().epoch, 10U);
  source.Say(SampleMap(11, 4));
  EXPECT_TRUE(Reaches(*watcher, 11));
}

TEST(MapWatcher, RefusesAnotherCluster) {
  LooseSource source(SampleMap(10, 3));
  auto server = Serve(source);
  const uint16_t port = server->port();
  const auto watcher = Watch({AddressOf(*server)});
  ASSERT_TRUE(Reaches(*watcher, 10));
  server.reset();
  source.Say(SampleMap(99, 4, {}, {5, 5}));
  const size_t before = source.streams();
  server = Serve(source, port);
  ASSERT_TRUE(Eventually([&] { return source.streams() >= before + 3; }));
  EXPECT_EQ(watcher->Current()->version().epoch, 10U);
}

TEST(MapWatcher, ReconnectsWithinASecondOrSo) {
  MapBoard board(true);
  board.Publish(SampleMap(1, 3));
  auto server = Serve(board);
  const uint16_t port = server->port();
  const auto watcher = Watch({AddressOf(*server)});
  ASSERT_TRUE(Reaches(*watcher, 1));
  server.reset();
  std::this_thread::sleep_for(1500ms);
  server = Serve(board, port);
  const auto start = std::chrono::steady_clock::now();
  board.Publish(SampleMap(2, 3));
  ASSERT_TRUE(Reaches(*watcher, 2));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2500ms);
}

TEST(MapWatcher, TurnsToADataServerOfTheMapWhenTheManagerIsGone) {
  MapBoard at_data_server(false);
  const auto data_server = Serve(at_data_server);
  MapContents contents = SampleMap(1, 1)->contents();
  contents.servers[0].control_address = AddressOf(*data_server);
  const Table one = *RouteTable::Create(contents);
  contents.version.epoch = 2;
  contents.namespaces.emplace_back(1, "new");
  const Table two = *RouteTable::Create(contents);
  MapBoard at_manager(true);
  at_manager.Publish(one);
  at_data_server.Publish(one);
  auto manager = Serve(at_manager);
  const auto watcher = Watch({AddressOf(*manager)});
  ASSERT_TRUE(Reaches(*watcher, 1));
  manager.reset();
  ASSERT_TRUE(Eventually([&] { return watcher->ConnectedTo() == AddressOf(*data_server); }));
  at_data_server.Publish(two);
  ASSERT_TRUE(Reaches(*watcher, 2));
  // A client that begins now, with a data server in its list, gets the map too.
  const auto other = Watch({"127.0.0.1:1", AddressOf(*data_server)});
  const auto map = other->WaitForMap(5s);
  ASSERT_TRUE(map.ok()) << map.status().ToString();
  ExpectSame(**map, *two);
}

TEST(MapWatcher, ServersAndClientsAreServedApart) {
  MapBoard board(true);
  board.Publish(SampleMap(1, 3));
  const auto server = Serve(board);
  const auto client = Watch({AddressOf(*server)});
  const auto peer = Watch({AddressOf(*server)}, WatcherKind::kServer);
  ASSERT_TRUE(Reaches(*client, 1));
  ASSERT_TRUE(Reaches(*peer, 1));
  EXPECT_EQ(board.Watchers(), 2U);
  board.Publish(WatcherKind::kServer, SampleMap(2, 3));
  ASSERT_TRUE(Reaches(*peer, 2));
  EXPECT_EQ(client->Current()->version().epoch, 1U);
  board.Publish(WatcherKind::kClient, SampleMap(2, 3));
  ASSERT_TRUE(Reaches(*client, 2));
  client->Stop();
  EXPECT_TRUE(Eventually([&] { return board.Watchers() == 1; }));
}

TEST(MapWatcher, WithoutAnybodyItSaysWhomItAsked) {
  const auto watcher = Watch({"127.0.0.1:1"});
  const auto map = watcher->WaitForMap(300ms);
  ASSERT_EQ(map.code(), Code::kUnavailable);
  EXPECT_NE(map.status().message().find("127.0.0.1:1"), std::string::npos);
  const auto start = std::chrono::steady_clock::now();
  watcher->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 500ms);
  EXPECT_EQ(MapWatcher::Start({}).code(), Code::kInvalidArgument);
  EXPECT_EQ(watcher->SetAddresses({"nonsense"}).code(), Code::kInvalidArgument);
}

TEST(MapWatcher, TakesAMapThatComesLateToADataServer) {
  MapBoard board(false);
  const auto server = Serve(board);
  const auto watcher = Watch({AddressOf(*server)});
  EXPECT_EQ(watcher->WaitForMap(200ms).code(), Code::kUnavailable);
  board.Publish(SampleMap(4, 2));
  EXPECT_TRUE(Reaches(*watcher, 4));
}

TEST(MapWatcher, StopIsPromptWhileAStreamIsUp) {
  MapBoard board(true);
  board.Publish(SampleMap(1, 3));
  const auto server = Serve(board);
  for (int i = 0; i < 20; ++i) {
    const auto watcher = Watch({AddressOf(*server)});
    if (i % 2 == 0) {
      ASSERT_TRUE(watcher->WaitForMap(5s).ok());
    }
    const auto start = std::chrono::steady_clock::now();
    watcher->Stop();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 500ms);
  }
}

}  // namespace
}  // namespace simm::rpc
