#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/metrics/metrics.h"

namespace simm::metrics {

struct HttpRequest {
  std::string path;
  std::map<std::string, std::string> parameters;  // of the query; the last one of a name
};
struct HttpReply {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers{};
};
using HttpHandler = std::function<HttpReply(const HttpRequest& request)>;

struct HttpOptions {
  std::string address;  // HOST:PORT, port 0 for any free one
  // Ok: /readyz answers 200 "ok". Otherwise 503 with the message. Empty: always ready.
  std::function<Status()> ready;
  // What a person who looks at /readyz should know although it is ok; follows it. May be empty.
  std::function<std::string()> note = {};
  // A connection whose request is not whole after so long, or that takes nothing of its answer for
  // so long, is closed.
  int idle_seconds = 3;
  // What said `address`, for messages.
  std::string flag = "--http";
};

// The small HTTP server of each process, for scrapers, probes and people: GET /metrics, /healthz,
// /readyz and added routes; 404 elsewhere. Thread-safe; owns the threads of HttpConnections.
//
// Bounds: one request a connection, no body; those of HttpConnections, whose idle connections hold
// up nobody.
class HttpServer {
 public:
  // Listens and serves. `registry` must outlive the server. kInvalidArgument: not an address.
  // kUnavailable: the port is taken or not allowed; the message names the flag. "off" is the
  // caller's: then there is no server.
  static Result<std::unique_ptr<HttpServer>> Start(const HttpOptions& options, Registry& registry);
  // Waits for requests being answered.
  ~HttpServer();

  // Answers GET of exactly this path. The handler runs on any worker, also several at once.
  void AddRoute(const std::string& path, HttpHandler handler);

  // Where it listens, with the port that was given to it: "0.0.0.0:30080".
  const std::string& address() const { return address_; }
  uint16_t port() const { return port_; }

 private:
  class State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
  std::string address_;
  uint16_t port_ = 0;
};

}  // namespace simm::metrics
