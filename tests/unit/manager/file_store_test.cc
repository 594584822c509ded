#include "manager/store/file_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/base/random.h"
#include "manager/membership.h"
#include "manager/store/state_codec.h"

namespace simm::manager {
namespace {

namespace fs = std::filesystem;

DurableState Sample(uint64_t epoch) {
  Membership members({}, NewCluster({3, 4}), Instant{});
  Membership::Draft draft = members.Begin();
  for (int i = 0; i < 5; ++i) {
    rpc::RegisterRequest request;
    request.name = "server-" + std::to_string(i);
    request.pool_id = {1, static_cast<uint64_t>(i) + 1};
    request.boot_id = {2, 7};
    request.incarnation = 3;
    request.control_address = "10.0.0.1:1";
    request.data_address = "10.0.0.1:2";
    request.zone = "rack 1";
    request.weight = 1000 + static_cast<uint64_t>(i);
    EXPECT_TRUE(members.Register(Instant{}, request, draft).ok());
  }
  EXPECT_TRUE(members.CreateNamespace("tenant", draft).ok());
  Membership::Seal(draft);
  draft.next.map.version.epoch = epoch;
  draft.next.map.servers[2].state = ServerState::kDead;
  return draft.next;
}

void ExpectSame(const DurableState& a, const DurableState& b) {
  EXPECT_EQ(a.map.version, b.map.version);
  EXPECT_EQ(a.map.servers, b.map.servers);
  EXPECT_EQ(a.map.namespaces, b.map.namespaces);
  EXPECT_EQ(a.map.owners, b.map.owners);
  EXPECT_EQ(a.homes, b.homes);
  EXPECT_EQ(a.next_server, b.next_server);
}

class FileStoreTest : public testing::Test {
 protected:
  FileStoreTest() {
    std::string pattern = (fs::temp_directory_path() / "simm-store-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~FileStoreTest() override { fs::remove_all(directory_); }

  std::unique_ptr<FileStore> Open() {
    Result<std::unique_ptr<FileStore>> store = FileStore::Open(directory_);
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    return *std::move(store);
  }
  std::string Bytes() const {
    std::ifstream in(directory_ + "/state", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Overwrite(const std::string& bytes) const {
    std::ofstream(directory_ + "/state", std::ios::binary | std::ios::trunc) << bytes;
  }

  std::string directory_;
};

TEST_F(FileStoreTest, GivesBackWhatWasSaved) {
  auto store = Open();
  Result<std::optional<DurableState>> nothing = store->Load();
  ASSERT_TRUE(nothing.ok());
  EXPECT_FALSE(nothing->has_value());
  for (const uint64_t epoch : {5, 6}) {
    ASSERT_TRUE(store->Save(Sample(epoch)).ok());
    Result<std::optional<DurableState>> loaded = store->Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
    ExpectSame(**loaded, Sample(epoch));
  }
  store.reset();
  ExpectSame(**Open()->Load(), Sample(6));
}

TEST_F(FileStoreTest, MakesTheDirectory) {
  directory_ += "/a/b";
  EXPECT_TRUE(Open()->Save(Sample(1)).ok());
  directory_ = fs::path(directory_).parent_path().parent_path();
}

TEST_F(FileStoreTest, ALeftOverTemporaryFileIsHarmless) {
  std::ofstream(directory_ + "/state.new") << "half of a sta";
  auto store = Open();
  EXPECT_FALSE(store->Load()->has_value());
  EXPECT_TRUE(store->Save(Sample(1)).ok());
  ExpectSame(**store->Load(), Sample(1));
}

TEST_F(FileStoreTest, DamageIsNoticedAndTheMendIsNamed) {
  auto store = Open();
  ASSERT_TRUE(store->Save(Sample(5)).ok());
  const std::string good = Bytes();
  Random random(11);
  std::vector<std::string> damaged = {"",
                                      "S",
                                      good.substr(0, 23),
                                      good.substr(0, 24),
                                      good.substr(0, good.size() / 2),
                                      good.substr(0, good.size() - 1),
                                      good + "x",
                                      std::string(good.size(), '\0')};
  for (int i = 0; i < 300; ++i) {
    std::string flipped = good;
    const size_t limit = i < 200 ? 256 : good.size();  // the header and the records more often
    flipped[random.Below(limit)] ^= static_cast<char>(1U << random.Below(8));
    damaged.push_back(std::move(flipped));
  }
  for (const std::string& bytes : damaged) {
    Overwrite(bytes);
    Result<std::optional<DurableState>> loaded = store->Load();
    ASSERT_EQ(loaded.code(), Code::kFailedPrecondition);
    EXPECT_NE(loaded.status().message().find(directory_ + "/state"), std::string::npos);
    EXPECT_NE(loaded.status().message().find("backup"), std::string::npos)
        << loaded.status().message();
  }
  Overwrite(good);
  EXPECT_TRUE(store->Load().ok());
}

// The file that the first version wrote: fixed fields, three numbers a shard.
std::string FirstFormat(const DurableState& state) {
  std::string body;
  const auto put = [&body](auto value) {
    body.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  const auto put_id = [&](const Id128& id) {
    put(id.high);
    put(id.low);
  };
  const auto put_text = [&](const std::string& text) {
    put(static_cast<uint16_t>(text.size()));
    body += text;
  };
  put_id(state.map.version.cluster);
  put(state.map.version.term);
  put(state.map.version.epoch);
  put(state.map.replicas);
  put(state.next_server);
  put(static_cast<uint32_t>(state.map.servers.size()));
  for (const ServerRecord& server : state.map.servers) {
    put(server.id);
    put(static_cast<uint8_t>(server.state));
    put(server.incarnation);
    put(server.weight);
    put_id(server.pool_id);
    put_id(server.boot_id);
    put_text(server.name);
    put_text(server.control_address);
    put_text(server.data_address);
    put_text(server.zone);
  }
  put(static_cast<uint32_t>(state.map.namespaces.size()));
  for (const auto& [id, name] : state.map.namespaces) {
    put(id);
    put_text(name);
  }
  for (const ShardOwner& owner : state.map.owners) {
    put(owner.server);
    put(owner.source);
  }
  for (const ServerId home : state.homes) put(home);
  const std::string payload = std::exchange(body, "SIMMSTAT");
  put(uint32_t{0});
  put(uint32_t{1});
  put(static_cast<uint64_t>(payload.size()));
  body += payload;
  const uint32_t crc = Crc32c(AsBytes(std::string_view(body).substr(12)));
  std::memcpy(body.data() + 8, &crc, sizeof crc);
  return body;
}

TEST_F(FileStoreTest, TheFirstFormatIsReadAndWrittenAnew) {
  const DurableState state = Sample(7);
  auto store = Open();
  Overwrite(FirstFormat(state));
  const auto loaded = store->Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
  ExpectSame(**loaded, state);
  ASSERT_TRUE(store->Save(**loaded).ok());
  EXPECT_LT(Bytes().size(), 100'000U);
  ExpectSame(**store->Load(), state);
}

TEST_F(FileStoreTest, SourcesDrainsAndAbilitiesAreKept) {
  DurableState state = Sample(8);
  state.draining = {2, 4};
  state.map.servers[1].capabilities = 3;
  for (uint32_t shard = 0; shard < limits::kShards; shard += 7) {
    ShardOwner& row = state.map.owners[shard];
    row.source = row.server % 5 + 1;
    state.homes[shard] = row.source;
  }
  auto store = Open();
  ASSERT_TRUE(store->Save(state).ok());
  ExpectSame(**store->Load(), state);
  EXPECT_EQ((*store->Load())->draining, state.draining);
}

TEST_F(FileStoreTest, ReplicasAreKept) {
  DurableState state = Sample(9);
  for (const uint32_t replicas : {2U, 3U}) {
    state.map.replicas = replicas;
    state.map.owners.assign(size_t{limits::kShards} * replicas, {});
    for (uint32_t index = 0; index < state.map.owners.size(); ++index) {
      state.map.owners[index] = {index % 5 + 1, index % 11 == 0 ? (index + 1) % 5 + 1 : kNoServer};
    }
    state.homes.clear();
    for (const ShardOwner& owner : state.map.owners) state.homes.push_back(owner.server);
    state.map.owners[4] = {};    // an empty place with a home
    state.homes[9] = kNoServer;  // an owner without a home in its place
    state.homes[20] = 1 + state.homes[20] % 5;
    auto store = Open();
    ASSERT_TRUE(store->Save(state).ok());
    ASSERT_EQ(Bytes()[12], 3) << "the version before cannot read it, and must say so";
    const auto loaded = store->Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
    EXPECT_EQ((*loaded)->map.replicas, replicas);
    ExpectSame(**loaded, state);
  }
}

TEST_F(FileStoreTest, WithoutReplicasTheVersionBeforeCanGoOn) {
  EXPECT_EQ(EncodeState(Sample(1))[12], 2);
}

TEST_F(FileStoreTest, ANewerFormatIsNoDamage) {
  std::string bytes = EncodeState(Sample(1));
  bytes[12] = 4;
  const uint32_t crc = Crc32c(AsBytes(std::string_view(bytes).substr(12)));
  std::memcpy(bytes.data() + 8, &crc, sizeof crc);
  Result<DurableState> decoded = DecodeState(bytes);
  EXPECT_EQ(decoded.code(), Code::kFailedPrecondition);
  EXPECT_NE(decoded.status().message().find("format 4"), std::string::npos);
}

TEST_F(FileStoreTest, ASecondManagerIsRefused) {
  auto first = Open();
  Result<std::unique_ptr<FileStore>> second = FileStore::Open(directory_);
  ASSERT_EQ(second.code(), Code::kFailedPrecondition);
  EXPECT_NE(second.status().message().find("another simm-manager (pid " + std::to_string(getpid())),
            std::string::npos)
      << second.status().message();
  first.reset();
  EXPECT_TRUE(FileStore::Open(directory_).ok());
}

TEST_F(FileStoreTest, AFileInPlaceOfTheDirectory) {
  std::ofstream(directory_ + "/file") << "x";
  Result<std::unique_ptr<FileStore>> store = FileStore::Open(directory_ + "/file");
  EXPECT_EQ(store.code(), Code::kFailedPrecondition);
}

// A full disk: in a child process whose files may not grow beyond 4 KiB.
TEST_F(FileStoreTest, AFullDiskKeepsTheOldState) {
  auto store = Open();
  ASSERT_TRUE(store->Save(Sample(5)).ok());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(10);
    const Status status = store->Save(Sample(6));
    if (status.code() != Code::kUnavailable) _exit(11);
    if (status.message().find("cannot be saved") == std::string::npos) _exit(12);
    if (fs::exists(directory_ + "/state.new")) _exit(13);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  ExpectSame(**store->Load(), Sample(5));
  EXPECT_TRUE(store->Save(Sample(7)).ok());
  ExpectSame(**store->Load(), Sample(7));
}

TEST_F(FileStoreTest, AFullFileSystemKeepsTheOldState) {
  const std::string options = "size=100k";  // room for one state file of 66 KB, not for two
  if (mount("tmpfs", directory_.c_str(), "tmpfs", 0, options.c_str()) != 0) {
    ASSERT_EQ(std::getenv("SIMM_REQUIRE_MOUNTS"), nullptr) << "a tmpfs cannot be mounted";
    GTEST_SKIP() << "NOT TESTED: a full tmpfs cannot be mounted; AFullDiskKeepsTheOldState is near";
  }
  {
    auto store = Open();
    EXPECT_TRUE(store->Save(Sample(5)).ok());
    const Status status = store->Save(Sample(6));
    EXPECT_EQ(status.code(), Code::kUnavailable);
    EXPECT_NE(status.message().find("No space left"), std::string::npos) << status.message();
    ExpectSame(**store->Load(), Sample(5));
  }
  EXPECT_EQ(umount(directory_.c_str()), 0);
}

}  // namespace
}  // namespace simm::manager
