#include "common/metrics/http_server.h"

#include <httplib.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"

namespace simm::metrics {
namespace {

constexpr size_t kWorkers = 4;
constexpr size_t kWaitingConnections = 64;
constexpr size_t kMaxBodyBytes = 64 << 10;

// The library's own pool has an unbounded queue. Here the accepting thread waits while the queue is
// full, so that a flood of connections stays in the kernel's queue instead of taking every
// descriptor of the process.
class BoundedPool final : public httplib::TaskQueue {
 public:
  BoundedPool() {
    for (size_t i = 0; i < kWorkers; ++i) workers_.emplace_back([this] { Work(); });
  }
  void enqueue(std::function<void()> job) override {
    MutexLock lock(mutex_);
    while (jobs_.size() >= kWaitingConnections && !stopping_) changed_.Wait(mutex_);
    jobs_.push_back(std::move(job));
    changed_.NotifyAll();
  }
  void shutdown() override {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    for (std::thread& worker : workers_) worker.join();
  }

 private:
  void Work() {
    for (;;) {
      std::function<void()> job;
      {
        MutexLock lock(mutex_);
        while (jobs_.empty() && !stopping_) changed_.Wait(mutex_);
        if (jobs_.empty()) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
        changed_.NotifyAll();
      }
      job();
    }
  }

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> jobs_ SIMM_GUARDED_BY(mutex_);
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> workers_;
};

HttpRequest Convert(const httplib::Request& request) {
  HttpRequest converted;
  converted.path = request.path;
  for (const auto& [name, value] : request.params) converted.parameters[name] = value;
  return converted;
}

// SO_REUSEADDR alone: the library's default, SO_REUSEPORT, would let two processes share a port in
// silence.
void SetSocketOptions(socket_t fd) {
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
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
    server_.new_task_queue = [] { return new BoundedPool; };
    server_.set_socket_options(SetSocketOptions);
    server_.set_read_timeout(options.idle_seconds);
    server_.set_write_timeout(options.idle_seconds);
    // One request a connection: an idle scraper must not hold one of the few workers.
    server_.set_keep_alive_max_count(1);
    server_.set_keep_alive_timeout(options.idle_seconds);
    server_.set_payload_max_length(kMaxBodyBytes);
    server_.Get(".*", [this](const httplib::Request& request, httplib::Response& response) {
      const HttpReply reply = Answer(request);
      response.status = reply.status;
      response.set_content(reply.body, reply.content_type);
    });
  }

  ~State() {
    server_.stop();
    if (accepting_.joinable()) accepting_.join();
  }

  // The bound port, or -1 with errno set.
  int Bind(const std::string& host, int port) {
    errno = 0;
    if (port == 0) return server_.bind_to_any_port(host);
    return server_.bind_to_port(host, port) ? port : -1;
  }

  void Serve() {
    accepting_ = std::thread([this] { server_.listen_after_bind(); });
    // stop() does nothing before the accepting thread runs.
    while (!server_.is_running()) std::this_thread::sleep_for(std::chrono::microseconds(100));
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

  httplib::Server server_;
  std::thread accepting_;
  const std::function<Status()> ready_;
  const std::function<std::string()> note_;
  Registry& registry_;
  Mutex mutex_;
  std::map<std::string, HttpHandler> routes_ SIMM_GUARDED_BY(mutex_);
};

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpOptions& options,
                                                      Registry& registry) {
  std::string host;
  int port = 0;
  if (const Status status = SplitAddress(options, &host, &port); !status.ok()) return status;
  auto state = std::make_unique<State>(options, registry);
  const int bound = state->Bind(host, port);
  if (bound < 0) {
    const std::string why = errno != 0 ? std::strerror(errno) : "is the host one of this machine?";
    return Status(Code::kUnavailable, "cannot listen on " + options.address + " for HTTP: " + why +
                                          "; give " + options.flag + " another HOST:PORT, or off");
  }
  state->Serve();
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(state)));
  server->port_ = static_cast<uint16_t>(bound);
  server->address_ =
      options.address.substr(0, options.address.rfind(':') + 1) + std::to_string(bound);
  return server;
}

void HttpServer::AddRoute(const std::string& path, HttpHandler handler) {
  state_->AddRoute(path, std::move(handler));
}

}  // namespace simm::metrics
