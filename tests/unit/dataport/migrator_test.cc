// A source with a data port and a destination that pulls from it, over sockets, without the control
// plane: what arrives, what wins, failures and fresh starts of either side, the throttle. Runs
// under ThreadSanitizer.

#include "dataserver/migrator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/transport/tcp/tcp_transport.h"
#include "dataserver/data_service.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/wrapped_connection.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

constexpr ServerId kSource = 1;
constexpr ServerId kDestination = 2;
constexpr uint64_t kIncarnation = 3;
constexpr uint64_t kBytes = 10'000;

// HashOf of namespace 0 has the seed 1; here hashes come from the namespace's name.
Hash128 Hash(std::string_view key) { return HashKey(key, NamespaceSeed("default")); }

std::shared_ptr<const RouteTable> MakeTable(uint64_t epoch, bool moving) {
  MapContents contents;
  contents.version = {{1, 2}, 1, epoch};
  for (const ServerId id : {kSource, kDestination}) {
    ServerRecord record;
    record.id = id;
    record.name = "s" + std::to_string(id);
    record.control_address = record.data_address = "127.0.0.1:1";
    record.weight = 1;
    contents.servers.push_back(record);
  }
  contents.namespaces = {{0, "default"}};
  const ShardOwner row =
      moving ? ShardOwner{kDestination, kSource} : ShardOwner{kSource, kNoServer};
  contents.owners.assign(limits::kShards, row);
  return *RouteTable::Create(std::move(contents));
}

std::unique_ptr<Pool> MakePool(uint64_t memory) {
  return std::move(*Pool::Create(
      {.memory_bytes = memory, .mean_value_bytes = 16 << 10, .path = {}, .prefault = false},
      MonotonicClock::Get()));
}

Code PutHashed(Pool& pool, const std::string& key, uint64_t bytes, uint64_t version = 0) {
  auto grant = pool.Allocate(Hash(key), 0, key, bytes);
  if (!grant.ok()) return grant.code();
  FillValue(grant->value, key, version);
  return pool.Commit(*grant, Hash(key), 0, key, PutMode::kReplace, Xxh3_64(grant->value),
                     {{7, 8}, 9, 0});
}
Code GetHashed(Pool& pool, const std::string& key, uint64_t version = 0) {
  PinnedValue pinned;
  if (const Code code = pool.Acquire(Hash(key), 0, key, &pinned); code != Code::kOk) return code;
  const bool right =
      IsValue(pinned.value, key, version) && Xxh3_64(pinned.value) == pinned.checksum;
  pool.Release(pinned);
  return right ? Code::kOk : Code::kCorrupt;
}
std::string KeyOf(int i) { return "key-" + std::to_string(i); }

template <typename Condition>
bool WaitFor(Condition condition) {
  const Instant end = MonotonicClock::Get().Now() + 60s;
  while (!condition()) {
    if (MonotonicClock::Get().Now() > end) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

// Each message takes 20 ms, as with a source that has little processor time.
class SlowConnection final : public WrappedConnection {
 public:
  SlowConnection(std::unique_ptr<Connection> inner, const transport::Capabilities& capabilities)
      : WrappedConnection(std::move(inner), capabilities, nullptr) {}
  Status Post(std::span<const transport::WorkItem> items) override {
    std::this_thread::sleep_for(20ms);
    return inner().Post(items);
  }
};

class MigratorTest : public testing::Test {
 protected:
  MigratorTest() { StartSource(); }
  ~MigratorTest() override {
    migrator_.reset();
    service_.reset();
    for (Pool* pool : {source_.get(), destination_.get()}) {
      const Status audit = pool->Audit();
      EXPECT_TRUE(audit.ok()) << audit.ToString();
      EXPECT_EQ(pool->Usage().granted_bytes, 0u);
      EXPECT_EQ(pool->Usage().pinned_bytes, 0u);
    }
  }
  void StartSource() {
    auto acceptor =
        tcp_.Listen("127.0.0.1:0", "--data-listen",
                    [this](const transport::SessionTag& tag) { return sessions_.Check(tag); });
    SetAddress((*acceptor)->Address());
    std::vector<std::unique_ptr<transport::Acceptor>> acceptors;
    acceptors.push_back(std::move(*acceptor));
    service_ = std::make_unique<DataService>(context_, std::move(acceptors), 1);
  }
  void SetAddress(std::string address) {
    MutexLock lock(address_mutex_);
    address_ = std::move(address);
  }
  std::string Address() {
    MutexLock lock(address_mutex_);
    return address_;
  }
  void Fill(int count, uint64_t bytes = kBytes) {
    for (int i = 0; i < count; ++i) ASSERT_EQ(PutHashed(*source_, KeyOf(i), bytes), Code::kOk);
  }
  void StartMigrator(uint64_t bytes_per_s = 0) {
    migrator_ = std::make_unique<Migrator>(
        *destination_,
        Migrator::Options{
            .bytes_per_s = bytes_per_s,
            .connect = [this](const ServerRecord& source,
                              const MapVersion&) -> Result<std::unique_ptr<transport::Connection>> {
              EXPECT_EQ(source.id, kSource);
              connects_.fetch_add(1);
              if (unreachable_.load()) return Status(Code::kUnavailable, "unplugged");
              auto connection =
                  tcp_.Connect(Address(), {sessions_.Open("destination"), kIncarnation}, 2s);
              if (!slow_ || !connection.ok()) return connection;
              const transport::Capabilities capabilities = (*connection)->capabilities();
              return {std::make_unique<SlowConnection>(*std::move(connection), capabilities)};
            },
            .on_pulled = [this] { pulled_.fetch_add(1); }});
  }
  // E+1 in force at both, the destination first.
  void Move(uint64_t epoch = 5) {
    migrator_->OnTable(MakeTable(epoch, true), kDestination);
    map_.Set(MakeTable(epoch, true));
  }
  bool AllPulled(uint64_t epoch = 5) {
    const auto table = MakeTable(epoch, true);
    return WaitFor([&] { return migrator_->Progress().shards_to_pull == 0; }) &&
           migrator_->Pulled(*table).size() == limits::kMaxPulledShards;
  }

  transport::TcpTransport tcp_;
  std::unique_ptr<Pool> source_ = MakePool(64 << 20);
  std::unique_ptr<Pool> destination_ = MakePool(64 << 20);
  SessionTable sessions_{MonotonicClock::Get(), kIncarnation, 10s};
  MapHolder map_;
  DataMetrics metrics_;
  std::atomic<ServerId> self_{kSource};
  DataContext context_{*source_, sessions_, map_, metrics_, MonotonicClock::Get(), self_};
  Mutex address_mutex_;  // a pull may be connecting while the source starts anew
  std::string address_ SIMM_GUARDED_BY(address_mutex_);
  std::unique_ptr<DataService> service_;
  std::atomic<int> connects_{0};
  std::atomic<int> pulled_{0};
  std::atomic<bool> unreachable_{false};
  bool slow_ = false;
  std::unique_ptr<Migrator> migrator_;
};

TEST_F(MigratorTest, EverythingArrivesWithItsHintsAndWhatIsHereStays) {
  Fill(1000);
  ASSERT_EQ(PutHashed(*source_, "empty", 0), Code::kOk);
  ASSERT_EQ(PutHashed(*source_, "large", 20 << 20), Code::kOk);
  StartMigrator();
  migrator_->OnTable(MakeTable(5, true), kDestination);
  // The source is behind: clients write and remove here already.
  ASSERT_EQ(PutHashed(*destination_, KeyOf(1), kBytes, 7), Code::kOk);
  ASSERT_EQ(destination_->Remove(Hash(KeyOf(2)), 0, KeyOf(2)), Code::kOk);
  ASSERT_TRUE(WaitFor([&] { return connects_.load() > 2; })) << "it asks again";
  EXPECT_EQ(destination_->Usage().entries, 1u);
  EXPECT_EQ(migrator_->failures(), 0u) << "waiting is no failure";
  map_.Set(MakeTable(5, true));
  ASSERT_TRUE(AllPulled());
  for (int i = 0; i < 1000; ++i) {
    const Code want = i == 2 ? Code::kRemoved : Code::kOk;
    EXPECT_EQ(GetHashed(*destination_, KeyOf(i), i == 1 ? 7 : 0), want) << i;
  }
  EXPECT_EQ(GetHashed(*destination_, "empty"), Code::kOk);
  EXPECT_EQ(GetHashed(*destination_, "large"), Code::kOk);
  PinnedValue pinned;
  ASSERT_EQ(destination_->Acquire(Hash(KeyOf(5)), 0, KeyOf(5), &pinned), Code::kOk);
  protocol::ExtentHeader header;
  std::memcpy(&header, pinned.head.data(), sizeof header);
  EXPECT_EQ(header.parent_low, 8u);
  EXPECT_EQ(header.depth, 9u);
  destination_->Release(pinned);
  const auto progress = migrator_->Progress();
  EXPECT_EQ(progress.entries_pulled, 1000u);
  EXPECT_EQ(progress.bytes_pulled, 998 * kBytes + (20 << 20));
  EXPECT_EQ(progress.entries_given_up, 0u);
  EXPECT_EQ(migrator_->Entries(PullOutcome::kExists), 1u);
  EXPECT_EQ(migrator_->Entries(PullOutcome::kRemoved), 1u);
  EXPECT_TRUE(WaitFor([&] { return pulled_.load() == 1; }));
  EXPECT_TRUE(WaitFor([&] { return metrics_.listings.load() == 0; }));
}

TEST_F(MigratorTest, APullIsNoUseOfTheSourcesEntries) {
  Fill(10);
  StartMigrator();
  Move();
  ASSERT_TRUE(AllPulled());
  EXPECT_EQ(source_->Counters().touches, 0u);
}

TEST_F(MigratorTest, AnUnreachableSourceIsTriedAgainUntilItIsThere) {
  Fill(100);
  unreachable_ = true;
  StartMigrator();
  Move();
  ASSERT_TRUE(WaitFor([&] { return migrator_->failures() >= 2; }));
  EXPECT_EQ(migrator_->Progress().shards_to_pull, limits::kShards);
  unreachable_ = false;
  ASSERT_TRUE(AllPulled());
  for (int i = 0; i < 100; ++i) EXPECT_EQ(GetHashed(*destination_, KeyOf(i)), Code::kOk) << i;
}

TEST_F(MigratorTest, ABrokenPullGoesOnWithoutFetchingAnythingTwice) {
  Fill(2000);
  StartMigrator(4 << 20);  // about 5 s for all
  Move();
  ASSERT_TRUE(WaitFor([&] { return migrator_->Progress().entries_pulled > 100; }));
  service_.reset();  // every connection breaks
  StartSource();
  migrator_->OnTable(MakeTable(5, true), kDestination);
  ASSERT_TRUE(WaitFor([&] { return connects_.load() > 1; }));
  ASSERT_TRUE(AllPulled());
  EXPECT_GE(migrator_->failures(), 1u);
  EXPECT_EQ(migrator_->Progress().entries_pulled, 2000u) << "none twice";
  EXPECT_GE(migrator_->Entries(PullOutcome::kExists), 100u);
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(GetHashed(*destination_, KeyOf(i)), Code::kOk) << i;
}

TEST_F(MigratorTest, AFullDestinationKeepsWhatIsHotterAndCountsWhatItGivesUp) {
  Fill(2000);  // 20 MB into 4
  for (int i = 1900; i < 2000; ++i) source_->Touch(Hash(KeyOf(i)), 0, KeyOf(i));
  destination_ = MakePool(4 << 20);
  StartMigrator();
  Move();
  ASSERT_TRUE(AllPulled());
  for (int i = 1900; i < 2000; ++i) EXPECT_EQ(GetHashed(*destination_, KeyOf(i)), Code::kOk) << i;
  const auto progress = migrator_->Progress();
  EXPECT_GT(progress.entries_given_up, 1000u);
  EXPECT_EQ(progress.entries_given_up + progress.entries_pulled, 2000u);
  EXPECT_EQ(progress.bytes_given_up, progress.entries_given_up * kBytes);
  EXPECT_EQ(destination_->Usage().entries, progress.entries_pulled) << "nothing was pulled in vain";
}

TEST_F(MigratorTest, ADamagedValueIsGivenUp) {
  Fill(10);
  PinnedValue pinned;
  ASSERT_EQ(source_->Acquire(Hash(KeyOf(3)), 0, KeyOf(3), &pinned), Code::kOk);
  const_cast<std::byte&>(pinned.value[100]) ^= std::byte{1};
  source_->Release(pinned);
  StartMigrator();
  Move();
  ASSERT_TRUE(AllPulled());
  EXPECT_EQ(GetHashed(*destination_, KeyOf(3)), Code::kMiss);
  EXPECT_EQ(migrator_->Entries(PullOutcome::kDamaged), 1u);
  EXPECT_EQ(migrator_->Progress().entries_given_up, 1u);
  EXPECT_EQ(destination_->Usage().entries, 9u);
}

TEST_F(MigratorTest, TheThrottleHoldsAndStopDoesNotWaitForIt) {
  Fill(500);
  StartMigrator(1 << 20);  // 5 MB; the first answer, about 1.2 of them, waits for nothing
  const Instant begin = MonotonicClock::Get().Now();
  Move();
  ASSERT_TRUE(WaitFor([&] { return migrator_->Progress().entries_pulled > 200; }));
  EXPECT_GE(MonotonicClock::Get().Now() - begin, 900ms);
  EXPECT_LT(migrator_->Progress().entries_pulled, 500u);
  migrator_->Stop();
}

// A throttled pull rests after each batch for as long as that batch was work, and more.
TEST_F(MigratorTest, APullLeavesASlowSourceToItsReadersMostOfTheTime) {
  Fill(250);  // 10 batches of 256 KiB, 1/4 ms of the bandwidth
  slow_ = true;
  StartMigrator(1 << 30);
  const Instant begin = MonotonicClock::Get().Now();
  Move();
  ASSERT_TRUE(WaitFor([&] { return migrator_->Progress().entries_pulled == 250; }));
  // 10 times 20 ms and 9 rests of 50 ms, the longest.
  EXPECT_GE(MonotonicClock::Get().Now() - begin, 600ms);
}

TEST_F(MigratorTest, WithoutThreadsItsDriverPullsAndMayGiveUp) {
  Fill(20);
  bool gives_up = true;
  const auto connect = [this](const ServerRecord&, const MapVersion&) {
    return tcp_.Connect(Address(), {sessions_.Open("destination"), kIncarnation}, 2s);
  };
  migrator_ = std::make_unique<Migrator>(
      *destination_,
      Migrator::Options{.connect = connect, .threads = 0, .gives_up = [&] { return gives_up; }});
  FakeClock clock;
  EXPECT_EQ(migrator_->NextDue(), kForever);
  EXPECT_FALSE(migrator_->PullNext(clock)) << "before there is a map";
  Move();
  EXPECT_LE(migrator_->NextDue(), clock.Now());
  EXPECT_TRUE(migrator_->PullNext(clock));
  EXPECT_EQ(migrator_->Progress().entries_pulled, 0u) << "the lane was given up";
  EXPECT_EQ(migrator_->failures(), 1u);
  EXPECT_FALSE(migrator_->PullNext(clock)) << "not before the pause is over";
  gives_up = false;
  clock.Advance(limits::kPullRetryMin);
  EXPECT_EQ(migrator_->NextDue(), clock.Now());
  EXPECT_TRUE(migrator_->PullNext(clock));
  EXPECT_EQ(migrator_->Progress().entries_pulled, 20u);
  EXPECT_EQ(migrator_->NextDue(), kForever);
}

TEST_F(MigratorTest, ASourceAnswersReadsAndRefusesWrites) {
  Fill(2);
  map_.Set(MakeTable(5, true));
  ShardCheck check(map_, self_);
  check.Load();
  Hash128 hash;
  EXPECT_EQ(check.Check(ShardCheck::For::kRead, 0, KeyOf(0), &hash), Code::kOk);
  EXPECT_EQ(check.Check(ShardCheck::For::kWrite, 0, KeyOf(0), &hash), Code::kWrongOwner);
  self_ = kDestination;
  EXPECT_EQ(check.Check(ShardCheck::For::kWrite, 0, KeyOf(0), &hash), Code::kOk);
  self_ = kNoServer;
  EXPECT_EQ(check.Check(ShardCheck::For::kRead, 0, KeyOf(0), &hash), Code::kWrongOwner);
}

}  // namespace
}  // namespace simm::dataserver
