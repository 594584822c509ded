#include "common/metrics/http_server.h"

#include <httplib.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "common/base/mutex.h"
#include "common/metrics/http_connections.h"

namespace simm::metrics {
namespace {

constexpr size_t kMaxBodyBytes = 64 << 10;
constexpr int kBacklog = 1024;  // of connections that the kernel has accepted for us

// What the library reads a request from and writes its answer to: text, no socket.
class TextStream final : public httplib::Stream {
 public:
  explicit TextStream(const std::string& request) : request_(request) {}
  bool is_readable() const override { return at_ < request_.size(); }
  bool is_writable() const override { return true; }
  ssize_t read(char* to, size_t size) override {
    const size_t n = request_.copy(to, size, at_);
    at_ += n;
    return static_cast<ssize_t>(n);
  }
  ssize_t write(const char* from, size_t size) override {
    answer_.append(from, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override { Nowhere(ip, port); }
  void get_local_ip_and_port(std::string& ip, int& port) const override { Nowhere(ip, port); }
  socket_t socket() const override { return INVALID_SOCKET; }
  std::string TakeAnswer() { return std::move(answer_); }

 private:
  static void Nowhere(std::string& ip, int& port) {
    ip.clear();
    port = 0;
  }
  const std::string& request_;
  size_t at_ = 0;
  std::string answer_;
};

// The library's understanding of HTTP without its sockets, on which it waits with a thread each.
class Dialect final : public httplib::Server {
 public:
  std::string Answer(const std::string& request) {
    TextStream stream(request);
    bool closed = false;
    process_request(stream, /*close_connection=*/true, closed, nullptr);
    return stream.TakeAnswer();
  }
};

HttpRequest Convert(const httplib::Request& request) {
  HttpRequest converted;
  converted.path = request.path;
  for (const auto& [name, value] : request.params) converted.parameters[name] = value;
  return converted;
}

// SO_REUSEADDR alone: SO_REUSEPORT would let two processes share a port in silence.
int ListenOn(const addrinfo& where) {
  const int fd =
      socket(where.ai_family, where.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, where.ai_protocol);
  if (fd < 0) return -1;
  const int yes = 1;
  const int no = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (where.ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
  if (bind(fd, where.ai_addr, where.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

// A listening socket, or -1 with errno set (0: no such host).
int ListenOn(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  errno = 0;
  const char* const name = host.empty() ? nullptr : host.c_str();
  if (getaddrinfo(name, std::to_string(port).c_str(), &hints, &found) != 0) {
    errno = 0;
    return -1;
  }
  int fd = -1;
  for (const addrinfo* at = found; at != nullptr && fd < 0; at = at->ai_next) fd = ListenOn(*at);
  const int error = errno;
  freeaddrinfo(found);
  errno = error;
  return fd;
}

int PortOf(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<sockaddr_in&>(bound).sin_port);
}

Status SplitAddress(const HttpOptions& options, std::string* host, int* port) {
  const std::string& address = options.address;
  const size_t colon = address.rfind(':');
  uint16_t number = 0;
  const char* const end = address.data() + address.size();
  const bool good = colon != std::string::npos && colon + 1 < address.size() && [&] {
    const auto parsed = std::from_chars(address.data() + colon + 1, end, number);
    return parsed.ec == std::errc() && parsed.ptr == end;
  }();
  if (!good) {
    return Status(Code::kInvalidArgument,
                  options.flag + ": '" + address + "' is not HOST:PORT (or off)");
  }
  *host = address.substr(0, colon);
  if (host->size() >= 2 && host->front() == '[') *host = host->substr(1, host->size() - 2);
  *port = number;
  return Status::Ok();
}

}  // namespace

class HttpServer::State {
 public:
  State(const HttpOptions& options, Registry& registry)
      : ready_(options.ready), note_(options.note), registry_(registry) {
    server_.set_payload_max_length(kMaxBodyBytes);
    server_.Get(".*", [this](const httplib::Request& request, httplib::Response& response) {
      const HttpReply reply = Answer(request);
      response.status = reply.status;
      response.set_content(reply.body, reply.content_type);
      for (const auto& [name, value] : reply.headers) response.set_header(name, value);
    });
  }

  // Takes the listening socket.
  void Serve(int listener, int idle_seconds) {
    connections_ = std::make_unique<HttpConnections>(
        listener, idle_seconds, [this](const std::string& head) { return server_.Answer(head); });
  }

  void AddRoute(const std::string& path, HttpHandler handler) {
    MutexLock lock(mutex_);
    routes_[path] = std::move(handler);
  }

 private:
  HttpReply Answer(const httplib::Request& request) {
    if (request.path == "/healthz") return {.body = "ok\n"};
    if (request.path == "/readyz") {
      const Status status = ready_ ? ready_() : Status::Ok();
      const std::string note = note_ ? note_() : std::string();
      if (status.ok()) return {.body = note.empty() ? "ok\n" : "ok\n" + note + "\n"};
      return {.status = 503, .body = status.message() + "\n"};
    }
    if (request.path == "/metrics") {
      return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
              .body = registry_.Scrape()};
    }
    HttpHandler handler;
    {
      MutexLock lock(mutex_);
      if (const auto route = routes_.find(request.path); route != routes_.end())
        handler = route->second;
    }
    if (handler) return handler(Convert(request));
    return {.status = 404, .body = "nothing here; try /metrics, /healthz or /readyz\n"};
  }

  Dialect server_;
  const std::function<Status()> ready_;
  const std::function<std::string()> note_;
  Registry& registry_;
  Mutex mutex_;
  std::map<std::string, HttpHandler> routes_ SIMM_GUARDED_BY(mutex_);
  std::unique_ptr<HttpConnections> connections_;  // the first to go: its workers use the others
};

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpOptions& options,
                                                      Registry& registry) {
  std::string host;
  int port = 0;
  if (const Status status = SplitAddress(options, &host, &port); !status.ok()) return status;
  const int listener = ListenOn(host, port);
  if (listener < 0) {
    const std::string why = errno != 0 ? std::strerror(errno) : "is the host one of this machine?";
    return Status(Code::kUnavailable, "cannot listen on " + options.address + " for HTTP: " + why +
                                          "; give " + options.flag + " another HOST:PORT, or off");
  }
  port = PortOf(listener);
  auto state = std::make_unique<State>(options, registry);
  state->Serve(listener, options.idle_seconds);
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(state)));
  server->port_ = static_cast<uint16_t>(port);
  server->address_ =
      options.address.substr(0, options.address.rfind(':') + 1) + std::to_string(port);
  return server;
}

void HttpServer::AddRoute(const std::string& path, HttpHandler handler) {
  state_->AddRoute(path, std::move(handler));
}

}  // namespace simm::metrics
