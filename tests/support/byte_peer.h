#pragma once

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "common/base/hash.h"
#include "common/transport/tcp/frame.h"
#include "common/transport/tcp/tcp_connection.h"

namespace simm::transport {

// A tcp connection whose peer is the test itself, over a socket pair.
struct BytePeer {
  int fd = -1;  // the test's end, non-blocking
  std::unique_ptr<TcpConnection> connection;

  explicit BytePeer(SessionCheck check) {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
    fd = fds[0];
    connection = std::make_unique<TcpConnection>(
        fds[1], "fuzzer",
        TcpConnection::Options{.tag = {}, .check = std::move(check), .read_ahead = 512});
  }
  ~BytePeer() { close(fd); }
};

// Fuzz input -> stream. Guessing a checksum is not what a fuzzer is for: a byte says how much of
// the following input is the body of a well-formed frame and how much payload follows; 0 sends what
// follows as it is.
class FrameMaker {
 public:
  FrameMaker(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool done() const { return left_ == 0; }

  // The next stretch of the stream.
  std::vector<std::byte> Next() {
    const uint8_t kind = Take(1).empty() ? 0 : last_;
    if (kind == 0) return Copy(Take(left_ < 64 ? left_ : 64));
    const auto body = Take(std::min<size_t>(left_, kind));
    Take(1);
    const size_t payload = size_t{last_} * 7;
    const bool trailer = (last_ & 1) != 0;
    if (body.empty()) return {};
    FrameHeaderBytes header;
    EncodeFrameHeader({.body_bytes = static_cast<uint16_t>(body.size()),
                       .has_trailer = trailer,
                       .request_id = 1,
                       .session = 1,
                       .incarnation = 1,
                       .payload_bytes = payload,
                       .body_crc = Crc32c(body)},
                      header);
    std::vector<std::byte> stream(header.begin(), header.end());
    stream.insert(stream.end(), body.begin(), body.end());
    stream.resize(stream.size() + payload + (trailer ? kTrailerBytes : 0));
    return stream;
  }

 private:
  ByteSpan Take(size_t n) {
    n = std::min(n, left_);
    const ByteSpan bytes(reinterpret_cast<const std::byte*>(data_), n);
    if (n > 0) last_ = data_[0];
    data_ += n;
    left_ -= n;
    return bytes;
  }
  static std::vector<std::byte> Copy(ByteSpan bytes) { return {bytes.begin(), bytes.end()}; }

  const uint8_t* data_;
  size_t left_;
  uint8_t last_ = 0;
};

}  // namespace simm::transport
