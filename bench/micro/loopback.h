#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace simm::bench {

// A failed call ends a baseline: there is nothing to measure.
inline void Require(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::exit(1);
}

// The two ends of one TCP connection over loopback, as two programs would have them.
struct SocketPair {
  int client = -1;
  int server = -1;
};
inline SocketPair ConnectLoopback() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  Require(bind(listener, generic, length) == 0 && listen(listener, 1) == 0, "listen");
  Require(getsockname(listener, generic, &length) == 0, "getsockname");
  SocketPair pair;
  pair.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Require(connect(pair.client, generic, length) == 0, "connect");
  pair.server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  Require(pair.server >= 0, "accept");
  close(listener);
  const int yes = 1;
  setsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  setsockopt(pair.server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  return pair;
}

// Memory whose every page has been written.
inline std::byte* MapPages(size_t bytes, int value) {
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Require(memory != MAP_FAILED, "mmap");
  std::memset(memory, value, bytes);
  return static_cast<std::byte*>(memory);
}

inline bool SendAll(int fd, const std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    bytes -= static_cast<size_t>(sent);
  }
  return true;
}

inline bool ReceiveAll(int fd, std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = recv(fd, data, bytes, MSG_WAITALL);
    if (got <= 0) return false;
    data += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

}  // namespace simm::bench
