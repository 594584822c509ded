// The programs as an operator meets them: damaged state, shipped configuration files, peers that
// stop in the middle, descriptors that run out, a pool whose bytes rot.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "common/transport/address.h"
#include "tests/support/cluster_fixture.h"

namespace simm {
namespace {

std::string TextOf(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int ConnectRaw(const std::string& address) {
  const auto resolved = transport::Resolve(*ParseHostPort(address));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&resolved->storage), resolved->length) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

// A program run to its end.
struct Ran {
  int exit_code = -1;
  std::string output;
};

class ProgramsTest : public ClusterTest {
 protected:
  void SetUp() override {
    char name[] = "/tmp/simm-programs-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Ran Run(std::vector<std::string> argv) {
    argv[0] = BinDir() + "/" + argv[0];
    const std::string log = (folder_ / ("log-" + std::to_string(++runs_))).string();
    auto child = bench::ChildProcess::Start(argv, log);
    EXPECT_TRUE(child.ok()) << child.status().ToString();
    if (!child.ok()) return {};
    EXPECT_TRUE(WaitUntil([&] { return (*child)->Ended().has_value(); }, 20s)) << argv[0];
    return {(*child)->Ended().value_or(-1), TextOf(log)};
  }
  uint64_t ResidentBytes(pid_t pid) const {
    std::istringstream words(TextOf("/proc/" + std::to_string(pid) + "/statm"));
    uint64_t total = 0, resident = 0;
    words >> total >> resident;
    return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  }

  std::filesystem::path folder_;
  int runs_ = 0;
};

TEST_F(ProgramsTest, ADamagedStateFileStopsTheManagerAndIsLeftAsItIs) {
  StartCluster(1);
  cluster_->manager()->Stop();
  std::filesystem::path state;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(cluster_->folder())) {
    if (entry.is_regular_file() && entry.file_size() > 0 &&
        entry.path().string().find("state") != std::string::npos &&
        entry.path().filename().string().find("lock") == std::string::npos) {
      state = entry.path();
    }
  }
  ASSERT_FALSE(state.empty()) << "no state file under " << cluster_->folder();
  std::string bytes = TextOf(state);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x40);
  std::ofstream(state, std::ios::binary) << bytes;
  const Ran ran = Run({"simm-manager", "--state", state.parent_path().string(), "--listen",
                       "127.0.0.1:0", "--http", "off"});
  EXPECT_EQ(ran.exit_code, 1) << ran.output;
  EXPECT_NE(ran.output.find(state.string()), std::string::npos) << ran.output;
  EXPECT_NE(ran.output.find("backup"), std::string::npos) << ran.output;
  EXPECT_EQ(TextOf(state), bytes) << "a damaged file is evidence";
}

TEST_F(ProgramsTest, AStateThatCannotBeWrittenIsSaidAtTheStart) {
  std::ofstream(folder_ / "file") << "not a folder";
  const Ran ran = Run({"simm-manager", "--state", (folder_ / "file").string(), "--listen",
                       "127.0.0.1:0", "--http", "off"});
  EXPECT_EQ(ran.exit_code, 1) << ran.output;
  EXPECT_NE(ran.output.find("--state"), std::string::npos) << ran.output;
}

// A control group of this machine with a limit on memory; empty: none can be made here.
class ControlGroup {
 public:
  explicit ControlGroup(uint64_t limit) {
    const std::string name = "/simm-test-" + std::to_string(getpid());
    for (const auto& [root, file] : {std::pair("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                                     std::pair("/sys/fs/cgroup", "memory.max")}) {
      std::error_code failed;
      const std::filesystem::path folder = root + name;
      if (!std::filesystem::create_directory(folder, failed) || failed) continue;
      if (std::filesystem::exists(folder / file) && std::ofstream(folder / file) << limit) {
        folder_ = folder;
        return;
      }
      std::filesystem::remove(folder, failed);
    }
  }
  ~ControlGroup() {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove(folder_, ignored);
  }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

TEST_F(ProgramsTest, APoolThatDoesNotFitItsControlGroupIsRefusedAtTheStart) {
  const ControlGroup group(128 << 20);
  if (group.folder().empty()) {
    ASSERT_EQ(std::getenv("SIMM_REQUIRE_CONTROL_GROUPS"), nullptr) << "no control group";
    GTEST_SKIP() << "NOT TESTED: no control group can be made here";
  }
  const std::string log = (folder_ / "log-group").string();
  const auto start = [&](const std::string& memory) {
    const std::string command = "echo $$ > " + (group.folder() / "cgroup.procs").string() +
                                " && exec " + BinDir() + "/simm-dataserver --manager 127.0.0.1:1" +
                                " --listen 127.0.0.1:0 --data-listen 127.0.0.1:0 --http off" +
                                " --transport tcp --memory " + memory;
    return bench::ChildProcess::Start({"/bin/sh", "-c", command}, log);
  };
  auto large = start("1GiB");
  ASSERT_TRUE(large.ok());
  ASSERT_TRUE(WaitUntil([&] { return (*large)->Ended().has_value(); }, 20s));
  EXPECT_EQ(*(*large)->Ended(), 1) << TextOf(log);
  EXPECT_NE(TextOf(log).find("control group"), std::string::npos) << TextOf(log);
  EXPECT_NE(TextOf(log).find("--memory"), std::string::npos) << TextOf(log);
  auto small = start("32MiB");  // fits; then there is no manager
  ASSERT_TRUE(small.ok());
  EXPECT_TRUE(WaitUntil([&] { return TextOf(log).find("127.0.0.1:1") != std::string::npos; }, 20s))
      << TextOf(log);
}

TEST_F(ProgramsTest, TheShippedConfigurationFilesAreValidAndEveryOriginIsShown) {
  const std::string config = SIMM_SOURCE_DIR "/deploy/config/";
  const Ran manager = Run({"simm-manager", "--config", config + "manager.yaml", "--print-config"});
  EXPECT_EQ(manager.exit_code, 0) << manager.output;
  EXPECT_NE(manager.output.find("heartbeat-ms: 1000"), std::string::npos) << manager.output;
  ASSERT_EQ(setenv("SIMM_ZONE", "rack-of-environment", 1), 0);
  ASSERT_EQ(setenv("SIMM_MEMORY", "3GiB", 1), 0);
  ASSERT_EQ(setenv("SIMM_MEAN_VALUE", "32KiB", 1), 0);
  const Ran server = Run({"simm-dataserver", "--config", config + "dataserver.yaml", "--mean-value",
                          "64KiB", "--print-config"});
  for (const char* const name : {"SIMM_ZONE", "SIMM_MEMORY", "SIMM_MEAN_VALUE"}) unsetenv(name);
  EXPECT_EQ(server.exit_code, 0) << server.output;
  const std::map<std::string, std::string> expected = {
      {"memory: 3", "env "},                           // file < environment
      {"mean-value: 64", "flag"},                      // environment < flag
      {"zone: rack-of-environment", "env "},           // default < environment
      {"data-listen: 0.0.0.0:30002", "dataserver.y"},  // default < file
      {"verify-puts: true", "default"},
  };
  for (const auto& [setting, origin] : expected) {
    const size_t at = server.output.find(setting);
    ASSERT_NE(at, std::string::npos) << setting << "\n" << server.output;
    const std::string line = server.output.substr(at, server.output.find('\n', at) - at);
    EXPECT_NE(line.find(origin), std::string::npos) << line;
  }
}

TEST_F(ProgramsTest, WrongFlagsEndWithTheNameOfTheFlag) {
  for (const auto& [flag, value] : std::map<std::string, std::string>{
           {"--memory", "12parsecs"}, {"--transport", "pigeon"}, {"--manager", "nowhere"}}) {
    const Ran ran = Run({"simm-dataserver", flag, value});
    EXPECT_EQ(ran.exit_code, 2) << ran.output;
    EXPECT_NE(ran.output.find(flag), std::string::npos) << ran.output;
    EXPECT_NE(ran.output.find(value), std::string::npos) << ran.output;
  }
  const Ran bench = Run({"simm-bench", "get", "--embedded", "1", "--transport", "pigeon"});
  EXPECT_EQ(bench.exit_code, 2) << bench.output;
  EXPECT_NE(bench.output.find("pigeon"), std::string::npos) << bench.output;
}

// Half a preface, half a frame, a preface and then silence while the answers pile up.
TEST_F(ProgramsTest, PeersThatStopInTheMiddleHoldUpNobody) {
  StartCluster(1);
  ASSERT_EQ(PutOne(*client_, "k", ValueOf(1, 1000)), Code::kOk);
  const uint64_t before = ResidentBytes(cluster_->manager()->pid());
  const std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  const std::string settings("\0\0\0\4\0\0\0\0\0", 9);
  std::vector<int> peers;
  for (int i = 0; i < 40; ++i) {
    for (const std::string& port :
         {cluster_->manager_address(), cluster_->server_ready(0).listen,
          cluster_->server_ready(0).data_listen, cluster_->server_ready(0).http}) {
      const int fd = ConnectRaw(port);
      ASSERT_GE(fd, 0);
      std::string bytes = preface.substr(0, 5 + static_cast<size_t>(i) % 10);
      if (i % 3 == 1) bytes = preface + settings.substr(0, 4);
      if (i % 3 == 2) {
        bytes = preface + settings;
        // Pings, whose answers nobody reads.
        for (int ping = 0; ping < 200; ++ping) {
          bytes += std::string("\0\0\10\6\0\0\0\0\0", 9) + "12345678";
        }
      }
      (void)send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      peers.push_back(fd);
    }
  }
  const Stopwatch watch;
  const auto fresh = Connect();
  ASSERT_NE(fresh, nullptr);
  std::vector<std::byte> buffer(1000);
  EXPECT_EQ(GetOne(*fresh, "k", buffer).code, Code::kOk);
  EXPECT_EQ(Status().nodes.size(), 1u);
  EXPECT_LE(watch.Elapsed(), 3000ms);
  EXPECT_LE(ResidentBytes(cluster_->manager()->pid()), before + (96 << 20));
  for (const int fd : peers) close(fd);
  EXPECT_EQ(PutOne(*fresh, "k2", ValueOf(2, 1000)), Code::kOk);
}

// A large answer under way when the signal comes: its client gets all of it.
TEST_F(ProgramsTest, SigtermInMidAnswerLetsTheClientHaveTheRest) {
  StartCluster(1, 512 << 20);
  constexpr size_t kSize = 200 << 20;
  PutOptions patient;
  patient.deadline = 20'000ms;
  ASSERT_EQ(PutOne(*client_, "big", ValueOf(1, kSize), patient), Code::kOk);
  std::vector<std::byte> memory(kSize);
  std::atomic_ref<std::byte> early(memory[1 << 20]);
  const std::byte unread = ~ValueOf(1, kSize)[1 << 20];
  early = unread;
  std::thread reader([&] {
    const GetItem item = {"big", memory.data(), kSize};
    const KeyResult result = client_->Get({&item, 1}, {.deadline = 20'000ms})[0];
    EXPECT_EQ(result.code, Code::kOk) << CodeName(result.code);
  });
  EXPECT_TRUE(WaitUntil([&] { return early.load() != unread; }, 20s));
  cluster_->server(0)->Signal(SIGTERM);
  reader.join();
  EXPECT_TRUE(IsValueOf(1, memory));
  EXPECT_TRUE(WaitUntil([&] { return cluster_->server(0)->Ended().has_value(); }, 10s));
  EXPECT_EQ(cluster_->server(0)->Ended().value_or(-1), 0);
}

TEST_F(ProgramsTest, WithoutDescriptorsTheOpenConnectionsServeOnAndNewOnesComeLater) {
  StartCluster(1);
  ASSERT_EQ(PutOne(*client_, "k", ValueOf(1, 1000)), Code::kOk);
  const pid_t pid = cluster_->server(0)->pid();
  size_t open = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    ++open;
  }
  const rlimit few{open + 20, open + 20};
  rlimit old{};
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &few, &old), 0);
  std::vector<int> peers;
  for (int i = 0; i < 60; ++i) peers.push_back(ConnectRaw(cluster_->server_ready(0).data_listen));
  std::vector<std::byte> buffer(1000);
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(GetOne(*client_, "k", buffer).code, Code::kOk) << "an open connection serves on";
  }
  EXPECT_FALSE(cluster_->server(0)->Ended().has_value());
  for (const int fd : peers) close(fd);
  // It rests until its next tick instead of turning in circles, then takes newcomers again.
  EXPECT_TRUE(WaitUntil(
      [&] {
        const auto fresh = Connect();
        return fresh != nullptr && GetOne(*fresh, "k", buffer).code == Code::kOk;
      },
      10s));
  EXPECT_TRUE(IsValueOf(1, buffer));
}

TEST_F(ProgramsTest, RottenBytesInThePoolAreAMissAndTheKeyCanBePutAgain) {
  bench::EmbeddedOptions options = Options(1);
  options.server_flags.insert(options.server_flags.end(), {"--pool", (folder_ / "pool").string()});
  StartCluster(options);
  constexpr size_t kSize = 300'000;
  const auto value = ValueOf(7, kSize);
  ASSERT_EQ(PutOne(*client_, "k", value), Code::kOk);
  // One bit, in the middle of the value, in the file itself.
  const int fd = open((folder_ / "pool.data").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  struct stat info {};
  ASSERT_EQ(fstat(fd, &info), 0);
  const auto size = static_cast<size_t>(info.st_size);
  auto* const bytes =
      static_cast<std::byte*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ASSERT_NE(static_cast<void*>(bytes), MAP_FAILED);
  const std::string_view all(reinterpret_cast<const char*>(bytes), size);
  const std::string_view needle(reinterpret_cast<const char*>(value.data()) + 150'000, 64);
  const size_t at = all.find(needle);
  ASSERT_NE(at, std::string_view::npos);
  bytes[at] ^= std::byte{1};
  std::vector<std::byte> buffer(kSize);
  EXPECT_EQ(GetOne(*client_, "k", buffer).code, Code::kMiss);
  EXPECT_GE(client_->Stats().corrupt, 1u);
  EXPECT_TRUE(WaitUntil([&] { return PutOne(*client_, "k", value) == Code::kOk; }, 5s))
      << "the owner drops a damaged value, so that it does not shadow its key";
  EXPECT_EQ(GetOne(*client_, "k", buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(7, buffer));
  munmap(bytes, size);
  close(fd);
}

TEST_F(ProgramsTest, AServerKilledInMidPutBatchCostsItsKeysOnly) {
  StartCluster(2, 512 << 20);
  constexpr size_t kKeys = 64, kSize = 4 << 20;
  std::vector<std::string> keys;
  std::vector<std::vector<std::byte>> values;
  std::vector<PutItem> puts;
  for (size_t i = 0; i < kKeys; ++i) {
    keys.push_back(KeyOf(i));
    values.push_back(ValueOf(i, kSize));
  }
  std::vector<size_t> owner(kKeys);
  for (size_t i = 0; i < kKeys; ++i) {
    owner[i] = OwnerOf(keys[i]);
    puts.push_back({keys[i], values[i].data(), kSize});
  }
  // Lanes to both are open; then the one that will die takes no more than its socket holds, so that
  // it dies in mid-batch for certain.
  ASSERT_EQ(PutOne(*client_, KeyOf(KeysOwnedBy(1, 1, kKeys)[0]), values[0]), Code::kOk);
  std::vector<KeyResult> results;
  const Stopwatch watch;
  cluster_->server(1)->Signal(SIGSTOP);
  std::thread putting([&] { results = client_->Put(puts, {.deadline = 5000ms}); });
  ASSERT_TRUE(WaitUntil([&] { return Status().nodes[0].stats.puts >= 1; }, 10s));
  cluster_->server(1)->Kill();
  putting.join();
  EXPECT_LE(watch.Elapsed(), 5000ms + 300ms);
  size_t lost = 0;
  for (size_t i = 0; i < kKeys; ++i) {
    if (owner[i] == 0) {
      EXPECT_EQ(results[i].code, Code::kOk) << i;
      continue;
    }
    lost += results[i].code != Code::kOk ? 1 : 0;
  }
  EXPECT_GT(lost, 0u) << "it was killed before the end";
  std::vector<std::byte> buffer(kSize);
  for (size_t i = 0; i < kKeys; ++i) {
    const Code code = GetOne(*client_, keys[i], buffer).code;
    if (owner[i] == 0) {
      EXPECT_EQ(code, Code::kOk) << i;
      EXPECT_TRUE(IsValueOf(i, buffer)) << i;
    } else {
      EXPECT_EQ(code, Code::kMiss) << i;
    }
  }
}

}  // namespace
}  // namespace simm
