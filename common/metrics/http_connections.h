#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace simm::metrics {

// The connections of the HTTP server: accepts, reads one request's head from each, has it answered
// by a worker, writes the answer and closes. No worker ever waits for a peer, so thousands of idle
// connections cost nothing but the bound below.
//
// Owns one thread for all sockets and kWorkers for answers. Thread-safe by having no calls but the
// destructor, which ends them all; answers that are being made are waited for.
//
// Bounds: kMaxConnections at a time; one more closes the one that has kept us waiting longest (a
// request that is being answered or read by its peer is not closed for it, the new one is). A head
// has kMaxHeadBytes and must be whole idle_seconds after the accept; an answer of which its peer
// takes nothing for so long is given up.
class HttpConnections {
 public:
  static constexpr size_t kMaxConnections = 256;
  static constexpr size_t kMaxHeadBytes = 16 << 10;
  static constexpr size_t kWorkers = 4;
  // The whole answer to the request that begins with `head`; called on a worker, several at once.
  using Answer = std::function<std::string(const std::string& head)>;

  // Takes the listening socket and closes it at the end.
  HttpConnections(int listener, int idle_seconds, Answer answer);
  ~HttpConnections();
  HttpConnections(const HttpConnections&) = delete;
  HttpConnections& operator=(const HttpConnections&) = delete;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace simm::metrics
