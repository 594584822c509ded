#pragma once

#include <dirent.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/transport/shm/descriptor.h"
#include "common/transport/shm/packet.h"
#include "common/transport/shm/shm_connection.h"
#include "common/transport/shm/shm_transport.h"
#include "common/transport/shm/unix_socket.h"

namespace simm::transport {

inline constexpr size_t kIndexBytes = 64 << 10;
inline constexpr size_t kDataBytes = 32 << 20;
inline constexpr SessionTag kShmTag = {.session = 9, .incarnation = 4};

class CollectingReceiver : public Receiver {
 public:
  PayloadTarget OnMessage(uint64_t, ByteSpan body, uint64_t) override {
    bodies.emplace_back(AsText(body));
    return {};
  }
  void OnMessageEnd(uint64_t, std::optional<uint64_t>) override {}
  void OnClosed(const Status& status) override { why = status; }
  std::vector<std::string> bodies;
  std::optional<Status> why;
};

class LastStatus : public Completion {
 public:
  void OnComplete(const Status& s) override {
    ++calls;
    status = s;
  }
  int calls = 0;
  Status status;
};

inline bool Until(const std::function<bool()>& done) {
  const Instant end = MonotonicClock::Get().Now() + std::chrono::seconds(10);
  while (!done()) {
    if (MonotonicClock::Get().Now() > end) return false;
  }
  return true;
}

inline size_t OpenDescriptors() {
  DIR* const dir = opendir("/proc/self/fd");
  size_t n = 0;
  while (readdir(dir) != nullptr) ++n;
  closedir(dir);
  return n;
}

inline std::string UniqueName(const char* prefix) {
  static int n = 0;
  return std::string(prefix) + std::to_string(getpid()) + "-" + std::to_string(++n);
}

// A data server as far as shared memory goes: an index that may be read, data that may be written.
class ShmServer {
 public:
  explicit ShmServer(std::string endpoint, ShmTransport::Options options = {})
      : transport(options), endpoint(std::move(endpoint)) {
    index = Map(kIndexBytes, "simm-test-index");
    data = Map(kDataBytes, "simm-test-data");
    index_region = *transport.Register(index, kRemoteRead);
    data_region = *transport.Register(data, kRemoteRead | kRemoteWrite);
    index_remote = index_region->Describe();
    data_remote = data_region->Describe();
    Listen();
  }
  ~ShmServer() {
    munmap(index.data(), index.size());
    munmap(data.data(), data.size());
  }
  void Listen() {
    auto made = transport.Listen(endpoint, "--shm", [](const SessionTag&) { return Status(); });
    ASSERT_TRUE(made.ok()) << made.status().ToString();
    acceptor = std::move(*made);
  }
  std::unique_ptr<Connection> AcceptOne(Receiver* receiver) {
    std::unique_ptr<Connection> far;
    EXPECT_TRUE(Until([&] { return (far = acceptor->Accept()) != nullptr; }));
    if (far) far->Start(receiver);
    return far;
  }

  ShmTransport transport;
  const std::string endpoint;
  MutableByteSpan index, data;
  std::unique_ptr<LocalRegion> index_region, data_region;
  RemoteRegion index_remote, data_remote;
  std::unique_ptr<Acceptor> acceptor;

 private:
  MutableByteSpan Map(size_t bytes, const char* name) {
    const Descriptor fd(memfd_create(name, MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    const MutableByteSpan memory(static_cast<std::byte*>(at), bytes);
    EXPECT_TRUE(transport.ShareFile(fd.get(), memory).ok());
    return memory;
  }
};

// One lane, both ends in this process.
struct ShmLane {
  ShmLane(ShmServer& server, ShmTransport& client) {
    Result<std::unique_ptr<Connection>> made = Status(Code::kInternal);
    std::thread connecting(
        [&] { made = client.Connect(server.endpoint, kShmTag, std::chrono::seconds(5)); });
    far = server.AcceptOne(&far_receiver);
    connecting.join();
    EXPECT_TRUE(made.ok()) << made.status().ToString();
    if (!made.ok()) return;
    near = std::move(*made);
    near->Start(&near_receiver);
  }
  CollectingReceiver near_receiver, far_receiver;
  std::unique_ptr<Connection> near, far;
};

inline WorkItem OneSided(Op op, const RemoteRegion& remote, uint64_t offset,
                         std::span<const MutableSegment> local, Completion* completion) {
  WorkItem item;
  item.op = op;
  item.local = local;
  item.remote = &remote;
  item.remote_offset = offset;
  item.completion = completion;
  return item;
}

inline Status PostText(Connection& c, const std::string& body, Completion* completion) {
  WorkItem item;
  item.message.body = AsBytes(body);
  item.completion = completion;
  return c.Post({&item, 1});
}

// A raw client socket, connected and silent.
inline Descriptor RawClient(const std::string& endpoint) {
  const auto address = ParseUnixAddress(endpoint);
  Descriptor fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(fd.get(), address->get(), address->length), 0);
  return fd;
}

inline PacketHeaderBytes PacketOf(PacketKind kind, size_t body_bytes, SessionTag tag = kShmTag) {
  PacketHeaderBytes header;
  EncodePacketHeader(
      {.kind = kind, .body_bytes = static_cast<uint16_t>(body_bytes), .request_id = 0, .tag = tag},
      header);
  return header;
}

// Runs `body` in a child and gives its process number; the child ends with what it returns.
inline pid_t InChild(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  return pid;
}
inline int Wait(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace simm::transport
