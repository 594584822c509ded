// Shared memory between processes: what the contract suite, with both ends in one process, cannot
// ask. Rights, ends that are killed, and what arrives on the socket from those who are no clients.

#include <fcntl.h>
#include <sys/stat.h>

#include "tests/unit/transport/shm_fixture.h"

namespace simm::transport {
namespace {

class Shm : public testing::Test {
 protected:
  ShmServer server_{UniqueName("@simm-shm-test-")};
  ShmTransport client_;
};

const std::vector<MappedRegion>& Mapped(const ShmLane& lane) {
  return static_cast<const ShmConnection&>(*lane.near).regions();
}

TEST_F(Shm, TheIndexCannotBeMadeWritableAndTheDataCanBeWritten) {
  ShmLane lane(server_, client_);
  ASSERT_EQ(Mapped(lane).size(), 2u);
  EXPECT_EQ(mprotect(Mapped(lane)[0].mapping->data(), kIndexBytes, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  std::vector<std::byte> value(1000, std::byte{0x42});
  const MutableSegment local[] = {{value.data(), value.size(), nullptr}};
  LastStatus done;
  WorkItem item = OneSided(Op::kWrite, server_.data_remote, 500, local, &done);
  ASSERT_TRUE(lane.near->Post({&item, 1}).ok());
  lane.near->Progress();
  EXPECT_TRUE(done.status.ok());
  EXPECT_EQ(server_.data[499], std::byte{0});
  EXPECT_EQ(server_.data[500], std::byte{0x42});
  EXPECT_EQ(lane.near->counters().bytes_copied, value.size());
}

TEST_F(Shm, LanesToOneServerShareOneMappingWhichGoesWithTheLast) {
  const auto mappings = [] {
    FILE* const maps = fopen("/proc/self/maps", "r");
    int n = 0;
    char line[512];
    while (fgets(line, sizeof line, maps) != nullptr)
      n += strstr(line, "simm-test-data") != nullptr;
    fclose(maps);
    return n;
  };
  const int own = mappings();
  {
    ShmLane first(server_, client_);
    ShmLane second(server_, client_);
    EXPECT_EQ(Mapped(first)[1].mapping.get(), Mapped(second)[1].mapping.get());
    EXPECT_EQ(mappings(), own + 1);
    first.near->Close();
    EXPECT_EQ(mappings(), own + 1);
  }
  EXPECT_EQ(mappings(), own);
}

TEST_F(Shm, AChildOfAClientHasNotItsMappings) {
  ShmLane lane(server_, client_);
  std::byte* const at = Mapped(lane)[1].mapping->data();
  unsigned char resident;
  ASSERT_EQ(mincore(at, 1, &resident), 0);
  EXPECT_EQ(Wait(InChild([&] { return mincore(at, 1, &resident) == -1 ? 0 : 1; })), 0);
}

TEST_F(Shm, LargeCopiesAreCutSoThatOtherLanesAreLookedAt) {
  ShmLane lane(server_, client_);
  std::vector<std::byte> value(20 << 20);
  const MutableSegment local[] = {{value.data(), value.size(), nullptr}};
  LastStatus done;
  std::fill(server_.data.begin(), server_.data.end(), std::byte{0x37});
  WorkItem item = OneSided(Op::kRead, server_.data_remote, 1, local, &done);
  ASSERT_TRUE(lane.near->Post({&item, 1}).ok());
  int calls = 0;
  while (done.calls == 0 && ++calls < 100) lane.near->Progress();
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(std::all_of(value.begin(), value.end(), [](auto b) { return b == std::byte{0x37}; }));
}

TEST_F(Shm, AStoppedServersMemoryStaysReadableWhenItsSocketIsFull) {
  ShmLane lane(server_, client_);
  std::vector<LastStatus> sent(400);
  for (auto& s : sent) ASSERT_TRUE(PostText(*lane.near, std::string(4096, 'x'), &s).ok());
  for (int i = 0; i < 10; ++i) lane.near->Progress();
  EXPECT_EQ(sent.front().calls, 1);
  EXPECT_EQ(sent.back().calls, 0) << "the socket should be full";
  pollfd p{lane.near->PollFd(), lane.near->PollEvents(), 0};
  EXPECT_EQ(poll(&p, 1, 0), 0);
  std::vector<std::byte> value(4096);
  const MutableSegment local[] = {{value.data(), value.size(), nullptr}};
  LastStatus done;
  WorkItem item = OneSided(Op::kRead, server_.data_remote, 0, local, &done);
  ASSERT_TRUE(lane.near->Post({&item, 1}).ok());
  p = {lane.near->PollFd(), lane.near->PollEvents(), 0};
  ASSERT_EQ(poll(&p, 1, 1000), 1);
  lane.near->Progress();
  EXPECT_EQ(done.calls, 1);
  ASSERT_TRUE(Until([&] {
    lane.near->Progress();
    lane.far->Progress();
    return sent.back().calls == 1 && lane.far_receiver.bodies.size() == sent.size();
  }));
}

TEST_F(Shm, AReadThatCoversABlockedMessageWaitsForIt) {
  ShmLane lane(server_, client_);
  std::vector<LastStatus> sent(400);
  for (auto& s : sent) ASSERT_TRUE(PostText(*lane.near, std::string(4096, 'x'), &s).ok());
  std::vector<std::byte> value(64);
  const MutableSegment local[] = {{value.data(), value.size(), nullptr}};
  LastStatus done;
  WorkItem items[2];
  const std::string body = "unsignalled";
  items[0].message.body = AsBytes(body);
  items[1] = OneSided(Op::kRead, server_.data_remote, 0, local, &done);
  ASSERT_TRUE(lane.near->Post(items).ok());
  for (int i = 0; i < 10; ++i) lane.near->Progress();
  EXPECT_EQ(done.calls, 0);
  pollfd p{lane.near->PollFd(), lane.near->PollEvents(), 0};
  EXPECT_EQ(poll(&p, 1, 0), 0) << "nothing can be done: whoever waits must sleep";
  ASSERT_TRUE(Until([&] {
    lane.near->Progress();
    lane.far->Progress();
    return done.calls == 1;
  }));
}

TEST_F(Shm, OnlySharedMemoryCanBeRegisteredForPeers) {
  std::vector<std::byte> heap(4096);
  const auto region = client_.Register(heap, kRemoteRead);
  ASSERT_EQ(region.code(), Code::kInvalidArgument);
  EXPECT_NE(region.status().message().find("ShareFile"), std::string::npos);
  EXPECT_TRUE(client_.Register(heap, kLocalOnly).ok());
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  EXPECT_EQ(client_.ShareFile(fds[0], heap).code(), Code::kInvalidArgument);
  close(fds[0]);
  close(fds[1]);
}

TEST_F(Shm, AClientKilledWhileItWritesIsProvenDeadAndTheServerIsUnharmed) {
  const pid_t child = InChild([&] {
    ShmTransport transport;
    auto near = transport.Connect(server_.endpoint, kShmTag, std::chrono::seconds(5));
    if (!near.ok()) return 1;
    CollectingReceiver receiver;
    (*near)->Start(&receiver);
    std::vector<std::byte> value(1 << 20, std::byte{0x99});
    const MutableSegment local[] = {{value.data(), value.size(), nullptr}};
    while (true) {
      LastStatus done;
      WorkItem item = OneSided(Op::kWrite, server_.data_remote, 0, local, &done);
      if (!(*near)->Post({&item, 1}).ok()) return 2;
      while (done.calls == 0) (*near)->Progress();
    }
  });
  CollectingReceiver receiver;
  auto far = server_.AcceptOne(&receiver);
  ASSERT_NE(far, nullptr);
  const auto process = far->peer_process();
  ASSERT_NE(process, nullptr);
  EXPECT_EQ(process->Name(), "pid " + std::to_string(child));
  ASSERT_TRUE(Until([&] {
    return __atomic_load_n(reinterpret_cast<uint8_t*>(server_.data.data()), __ATOMIC_ACQUIRE) ==
           0x99;
  }));
  far->Close();
  EXPECT_FALSE(process->Ended()) << "closing a lane cuts off nobody's mapping";
  kill(child, SIGKILL);
  ASSERT_TRUE(Until([&] { return process->Ended(); })) << "before anybody has reaped it";
  EXPECT_EQ(Wait(child), -SIGKILL);
  EXPECT_TRUE(process->Ended());
  ShmLane next(server_, client_);
  EXPECT_NE(next.near, nullptr);
}

TEST_F(Shm, AKilledServersMemoryIsReadUntilTheLaneCloses) {
  const std::string endpoint = UniqueName("@simm-shm-test-");
  const pid_t child = InChild([&] {
    ShmServer server(endpoint);
    std::fill(server.data.begin(), server.data.end(), std::byte{0x61});
    CollectingReceiver receiver;
    const auto far = server.AcceptOne(&receiver);
    while (true) far->Progress();
    return 0;
  });
  Result<std::unique_ptr<Connection>> near = Status(Code::kInternal);
  ASSERT_TRUE(Until([&] {
    near = client_.Connect(endpoint, kShmTag, std::chrono::seconds(5));
    return near.ok();
  }));
  CollectingReceiver receiver;
  (*near)->Start(&receiver);
  kill(child, SIGKILL);
  EXPECT_EQ(Wait(child), -SIGKILL);
  std::vector<std::byte> value(1 << 20);
  const MutableSegment local[] = {{value.data(), value.size(), nullptr}};
  LastStatus done;
  // The keys of the two servers are the same: files and regions were made in the same order.
  WorkItem item = OneSided(Op::kRead, server_.data_remote, 0, local, &done);
  ASSERT_TRUE((*near)->Post({&item, 1}).ok());
  EXPECT_FALSE((*near)->Progress());
  EXPECT_TRUE(done.status.ok());
  EXPECT_EQ(value.back(), std::byte{0x61});
  ASSERT_TRUE(receiver.why.has_value());
  EXPECT_EQ(receiver.why->code(), Code::kUnavailable);
  EXPECT_EQ((*near)->Post({&item, 1}).code(), Code::kUnavailable);
}

// In a child with another user: 0 when it was let in.
int ConnectAs(uid_t user, const std::string& endpoint) {
  if (setresuid(user, user, user) != 0) return 3;
  ShmTransport transport;
  const auto near = transport.Connect(endpoint, kShmTag, std::chrono::seconds(5));
  if (near.ok()) return 0;
  return near.code() == Code::kUnavailable &&
                 near.status().message().find(std::to_string(user)) != std::string::npos
             ? 1
             : 2;
}

TEST_F(Shm, AnotherUserIsRefusedUnlessListed) {
  if (geteuid() != 0) GTEST_SKIP() << "NOT TESTED: only root can become another user";
  constexpr uid_t kNobody = 65534;
  const size_t before = OpenDescriptors();
  pid_t child = InChild([&] { return ConnectAs(kNobody, server_.endpoint); });
  pollfd p{server_.acceptor->PollFd(), POLLIN, 0};
  ASSERT_EQ(poll(&p, 1, 5000), 1);
  EXPECT_EQ(server_.acceptor->Accept(), nullptr);
  EXPECT_EQ(Wait(child), 1);
  EXPECT_EQ(OpenDescriptors(), before);

  ShmServer open(UniqueName("@simm-shm-test-"), {.socket_mode = 0666, .allowed_users = {kNobody}});
  child = InChild([&] { return ConnectAs(kNobody, open.endpoint); });
  CollectingReceiver receiver;
  EXPECT_NE(open.AcceptOne(&receiver), nullptr);
  EXPECT_EQ(Wait(child), 0);
}

TEST_F(Shm, AServerOfAnotherUserIsNotBelieved) {
  if (geteuid() != 0) GTEST_SKIP() << "NOT TESTED: only root can become another user";
  const std::string endpoint = UniqueName("@simm-shm-test-");
  const pid_t child = InChild([&] {
    if (setresuid(65534, 65534, 65534) != 0) return 3;
    ShmServer server(endpoint);
    pause();
    return 0;
  });
  Status status;
  ASSERT_TRUE(Until([&] {
    status = client_.Connect(endpoint, kShmTag, std::chrono::seconds(1)).status();
    return status.message().find("65534") != std::string::npos;
  }));
  kill(child, SIGKILL);
  Wait(child);
}

class ShmFile : public testing::Test {
 protected:
  ShmFile() {
    char name[] = "/tmp/simm-shm-XXXXXX";
    folder_ = mkdtemp(name);
    path_ = folder_ + "/data.sock";
  }
  ~ShmFile() override {
    unlink(path_.c_str());
    unlink((path_ + ".lock").c_str());
    rmdir(folder_.c_str());
  }
  Status TryListen() {
    ShmTransport transport;
    auto acceptor = transport.Listen(path_, "--shm", [](const SessionTag&) { return Status(); });
    return acceptor.status();
  }
  std::string folder_, path_;
};

TEST_F(ShmFile, ALiveSocketIsNotTakenAwayAndTheFlagIsNamed) {
  ShmServer server(path_);
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const Status second = TryListen();
  EXPECT_EQ(second.code(), Code::kUnavailable);
  EXPECT_NE(second.message().find("--shm"), std::string::npos);
  EXPECT_NE(second.message().find(path_), std::string::npos);
  ShmTransport client;
  ShmLane lane(server, client);
  EXPECT_NE(lane.near, nullptr);
  server.acceptor.reset();
  EXPECT_NE(stat(path_.c_str(), &info), 0) << "left its socket behind";
  EXPECT_EQ(client.Connect(path_, kShmTag, std::chrono::seconds(1)).code(), Code::kUnavailable);
}

TEST_F(ShmFile, TheSocketOfADeadServerIsReplaced) {
  const pid_t child = InChild([&] {
    const ShmServer server(path_);
    kill(getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(Wait(child), -SIGKILL);
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  ShmServer server(path_);
  ShmTransport client;
  ShmLane lane(server, client);
  EXPECT_NE(lane.near, nullptr);
}

TEST_F(ShmFile, AForeignProgramsSocketAndAnOrdinaryFileAreLeftAlone) {
  const auto address = ParseUnixAddress(path_);
  {
    const Descriptor foreign(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(foreign.get(), address->get(), address->length), 0);
    ASSERT_EQ(listen(foreign.get(), 1), 0);
    EXPECT_EQ(TryListen().code(), Code::kUnavailable);
  }
  unlink(path_.c_str());
  const Descriptor file(open(path_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_EQ(TryListen().code(), Code::kUnavailable);
  struct stat info {};
  EXPECT_EQ(stat(path_.c_str(), &info), 0);
}

}  // namespace
}  // namespace simm::transport
