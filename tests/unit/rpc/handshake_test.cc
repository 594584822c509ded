// How handshakes use the connections that a process shares.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "common/rpc/dataserver_stub.h"

namespace simm::rpc {
namespace {

using namespace std::chrono_literals;

// A port of ours: at first nobody listens there, so that who connects is refused.
class Port {
 public:
  Port() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
  ~Port() { close(fd_); }
  const std::string& address() const { return address_; }
  void Listen() const { EXPECT_EQ(listen(fd_, 64), 0); }
  bool SomebodyCame(std::chrono::milliseconds wait) const {
    pollfd entry{.fd = fd_, .events = POLLIN, .revents = 0};
    return poll(&entry, 1, static_cast<int>(wait.count())) == 1;
  }

 private:
  const int fd_;
  std::string address_;
};

// The shared channel pauses for up to 500 ms after a failure. Had a handshake to wait for that, a
// server that was away for long would be without its clients half a second longer.
TEST(HandshakeTest, ItConnectsAtOnceHoweverLongTheServerWasAway) {
  int attempts = 0;
  for (int round = 0; round < 4; ++round) {
    const Port port;
    const auto end = std::chrono::steady_clock::now() + 1200ms;
    while (std::chrono::steady_clock::now() < end) {
      EXPECT_EQ(Handshake(port.address(), {}, 1s).code(), Code::kUnavailable);
      std::this_thread::sleep_for(20ms);  // as who heals paces himself
    }
    port.Listen();
    do {
      ++attempts;
      // Where it does connect nobody answers.
      (void)Handshake(port.address(), {}, 50ms);
    } while (!port.SomebodyCame(20ms));
  }
  // One or two a round; by the pauses of one channel about 40.
  EXPECT_LE(attempts, 12);
}

}  // namespace
}  // namespace simm::rpc
