// What needs a second process: a peer that is killed, and a process with a small limit of locked
// memory. Each test forks before it touches the device.

#include <linux/capability.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "tests/rdma/rdma_fixture.h"

namespace simm::transport {
namespace {

// One datagram each way.
std::string Take(int fd) {
  std::string bytes(4096, '\0');
  const ssize_t count = read(fd, bytes.data(), bytes.size());
  bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return bytes;
}

void Give(int fd, std::string_view bytes) {
  const ssize_t count = write(fd, bytes.data(), bytes.size());
  SIMM_CHECK(count == static_cast<ssize_t>(bytes.size()), "the pipe between the two processes");
}

// Serves one lane until it is killed.
[[noreturn]] void ServeForever(int fd) {
  auto transport = MakeLoopback();
  if (!transport.ok()) _exit(1);
  std::vector<std::byte> memory = RandomBytes(8 << 20, 1);
  auto region = *(*transport)->Register(memory, kRemoteRead);
  auto acceptor =
      *(*transport)->Listen("server", "--x", [](const SessionTag&) { return Status(); });
  const RemoteChunk chunk = region->Describe().chunks[0];
  Give(fd, {reinterpret_cast<const char*>(&chunk), sizeof chunk});
  const auto answer = (*transport)->Answer("server", Take(fd));
  if (!answer.ok()) _exit(1);
  Give(fd, *answer);
  RecordingReceiver receiver;
  const auto lane = acceptor->Accept();
  lane->Start(&receiver);
  while (true) lane->Progress();
}

struct Child {
  pid_t pid = -1;
  int fd = -1;
  ~Child() {
    if (pid > 0) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    if (fd >= 0) close(fd);
  }
};

TEST(VerbsProcess, WhenThePeerIsKilledEverythingEndsInTime) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
  Child child;
  child.pid = fork();
  if (child.pid == 0) {
    close(fds[0]);
    ServeForever(fds[1]);
  }
  close(fds[1]);
  child.fd = fds[0];

  VerbsOptions options;
  options.bootstrap = [&](const std::string&, const std::string& offer,
                          Duration) -> Result<std::string> {
    Give(child.fd, offer);
    return Take(child.fd);
  };
  auto transport = VerbsTransport::Create(options);
  if (!transport.ok()) SIMM_SKIP_WITHOUT_DEVICE(transport.status());
  const std::string chunk = Take(child.fd);
  RemoteRegion remote;
  remote.chunks.resize(1);
  ASSERT_EQ(chunk.size(), sizeof(RemoteChunk));
  std::memcpy(&remote.chunks[0], chunk.data(), chunk.size());
  std::vector<std::byte> memory(8 << 20);
  const auto region = *(*transport)->Register(memory, kLocalOnly);
  RecordingReceiver receiver;
  auto lane = *(*transport)->Connect("server", kTag, std::chrono::seconds(5));
  lane->Start(&receiver);

  const MutableSegment all = {memory.data(), memory.size(), region.get()};
  std::deque<CountingCompletion> done;
  // Two reads under way at any time: an idle lane learns nothing of its peer's death.
  const auto keep_reading = [&] {
    while (done.size() < 2 || done[done.size() - 2].calls == 1) {
      WorkItem item;
      item.op = Op::kRead;
      item.local = {&all, 1};
      item.remote = &remote;
      item.completion = &done.emplace_back();
      if (!lane->Post({&item, 1}).ok()) {
        done.pop_back();
        return false;
      }
    }
    return true;
  };
  while (done.size() < 4) {
    ASSERT_TRUE(keep_reading());
    lane->Progress();
  }
  EXPECT_TRUE(done[0].last.ok()) << done[0].last.ToString();
  kill(child.pid, SIGKILL);
  const Instant killed = MonotonicClock::Get().Now();
  while (lane->Progress() && MonotonicClock::Get().Now() - killed < std::chrono::seconds(15)) {
    (void)keep_reading();  // refused while the lane ends
  }
  const double seconds = ToSeconds(MonotonicClock::Get().Now() - killed);
  std::printf("bench: a killed peer was noticed after %.2f s\n", seconds);
  // 7 times 67 ms by the options; the emulated device's timers and the busy machine add to it.
  EXPECT_LT(seconds, 5.0);
  EXPECT_EQ(receiver.closed, 1);
  EXPECT_EQ(receiver.closed_why.code(), Code::kUnavailable);
  for (const CountingCompletion& completion : done) EXPECT_EQ(completion.calls, 1);
  EXPECT_EQ(done.back().last.code(), Code::kUnavailable);
}

// Without this capability the limit of locked memory applies to root too.
bool DropIpcLock() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) != 0) return false;
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  data[0].permitted &= ~(1u << CAP_IPC_LOCK);
  return syscall(SYS_capset, &header, data) == 0;
}

[[noreturn]] void RegisterWithALowLimit(int fd) {
  const rlimit limit{8 << 20, 8 << 20};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || !DropIpcLock()) _exit(2);
  auto transport = MakeLoopback();
  if (!transport.ok()) _exit(3);
  std::vector<std::byte> memory(64 << 20);
  const auto region = (*transport)->Register(memory, kRemoteRead);
  Give(fd, region.ok() ? "registered" : region.status().ToString());
  _exit(0);
}

TEST(VerbsProcess, TooLittleLockableMemorySaysWhatToDo) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
  Child child;
  child.pid = fork();
  if (child.pid == 0) {
    close(fds[0]);
    RegisterWithALowLimit(fds[1]);
  }
  close(fds[1]);
  child.fd = fds[0];
  const std::string said = Take(child.fd);
  if (said.empty()) {
    const auto transport = MakeLoopback();
    if (!transport.ok()) SIMM_SKIP_WITHOUT_DEVICE(transport.status());
  }
  EXPECT_NE(said.find("UNAVAILABLE"), std::string::npos) << said;
  EXPECT_NE(said.find("64.0 MiB"), std::string::npos) << said;
  EXPECT_NE(said.find("8.0 MiB"), std::string::npos) << said;
  EXPECT_NE(said.find("ulimit -l"), std::string::npos) << said;
}

}  // namespace
}  // namespace simm::transport
