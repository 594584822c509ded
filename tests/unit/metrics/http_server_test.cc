#include "common/metrics/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/metrics/http_connections.h"

namespace simm::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace std::chrono_literals;

// A connection that the test drives byte by byte.
class RawConnection {
 public:
  explicit RawConnection(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval timeout{.tv_sec = 10, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawConnection() { close(fd_); }
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  bool connected() const { return connected_; }
  void Send(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      sent += static_cast<size_t>(n);
    }
  }
  std::string ReadAll() {
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = recv(fd_, buffer, sizeof buffer, 0)) > 0;) {
      all.append(buffer, static_cast<size_t>(n));
    }
    return all;
  }

 private:
  int fd_;
  bool connected_ = false;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HttpOptions options;
    options.address = "127.0.0.1:0";
    options.idle_seconds = 1;
    options.ready = [this] {
      return ready_ ? Status::Ok() : Status(Code::kUnavailable, "no manager yet");
    };
    Result<std::unique_ptr<HttpServer>> server = HttpServer::Start(options, registry_);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = std::move(*server);
  }
  std::string Get(const std::string& target) {
    RawConnection connection(server_->port());
    connection.Send("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n");
    return connection.ReadAll();
  }

  Registry registry_;
  std::atomic<bool> ready_{true};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, Scrape) {
  registry_.Counter("simm_gets_total", "gets").Add(3);
  const std::string reply = Get("/metrics");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(reply, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(reply, HasSubstr("simm_gets_total 3\n"));
}

TEST_F(HttpServerTest, HealthAndReadiness) {
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200"));
  ready_ = false;
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));
  const std::string reply = Get("/readyz");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(reply, HasSubstr("no manager yet"));
}

TEST_F(HttpServerTest, RoutesAndNothingElsewhere) {
  EXPECT_THAT(Get("/status"), StartsWith("HTTP/1.1 404"));
  server_->AddRoute("/status", [](const HttpRequest& request) {
    HttpReply reply;
    reply.content_type = "application/json";
    reply.body = "{\"shard\":" + request.parameters.at("shard") + "}";
    return reply;
  });
  const std::string reply = Get("/status?shard=7");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(reply, HasSubstr("{\"shard\":7}"));
}

TEST_F(HttpServerTest, AHandlerThatThrowsIsAnError) {
  server_->AddRoute("/bad", [](const HttpRequest& request) {
    return HttpReply{.body = request.parameters.at("not there")};
  });
  EXPECT_THAT(Get("/bad"), StartsWith("HTTP/1.1 500"));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, GarbageEndsItsConnectionOnly) {
  const std::vector<std::string> inputs = {
      std::string(1000, '\0'),
      "\r\n\r\n\r\n",
      "GET\r\n\r\n",
      "NONSENSE / HTTP/9.9\r\n\r\n",
      "GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\n\r\n",
      "GET / HTTP/1.1\r\nA: " + std::string(100'000, 'b') + "\r\n\r\n",
      "POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
      "POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"};
  for (const std::string& input : inputs) {
    RawConnection connection(server_->port());
    connection.Send(input);
    connection.ReadAll();
    ASSERT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));
  }
}

TEST_F(HttpServerTest, SlowClientsDoNotBlockOthers) {
  std::vector<std::unique_ptr<RawConnection>> slow;
  for (int i = 0; i < 3; ++i) {
    slow.push_back(std::make_unique<RawConnection>(server_->port()));
    slow.back()->Send("GET /metr");
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 900ms);
}

// Those of the peers that say nothing would hold it up for a minute each, if a worker waited for
// one.
class PatientHttpServerTest : public ::testing::Test {
 protected:
  static constexpr size_t kIdle = 2 * HttpConnections::kMaxConnections;
  void SetUp() override {
    auto server = HttpServer::Start(
        {.address = "127.0.0.1:0", .ready = {}, .note = {}, .idle_seconds = 60}, registry_);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = std::move(*server);
  }
  std::unique_ptr<RawConnection> Open(const std::string& text) {
    auto connection = std::make_unique<RawConnection>(server_->port());
    connection->Send(text);
    return connection;
  }
  std::string Health() { return Open("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")->ReadAll(); }

  Registry registry_;
  std::unique_ptr<HttpServer> server_;
  std::vector<std::unique_ptr<RawConnection>> others_;
};

TEST_F(PatientHttpServerTest, IdleConnectionsHoldUpNobody) {
  for (size_t i = 0; i < kIdle; ++i) others_.push_back(Open(i % 2 == 0 ? "" : "GET /met"));
  for (int i = 0; i < 10; ++i) EXPECT_THAT(Health(), StartsWith("HTTP/1.1 200"));
  // The first of them had to go, the last of them is still listened to.
  EXPECT_EQ(others_.front()->ReadAll(), "");
  others_.back()->Send("rics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(others_.back()->ReadAll(), StartsWith("HTTP/1.1 200"));
}

TEST_F(PatientHttpServerTest, PeersThatReadNothingHoldUpNobody) {
  server_->AddRoute("/long", [](const HttpRequest&) {
    HttpReply reply;
    reply.body = std::string(8 << 20, 'x');
    return reply;
  });
  for (size_t i = 0; i < 2 * HttpConnections::kWorkers; ++i)
    others_.push_back(Open("GET /long HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(Health(), StartsWith("HTTP/1.1 200"));
  EXPECT_GT(others_.back()->ReadAll().size(), 8u << 20);
}

TEST_F(HttpServerTest, TheConnectionEndsAfterOneRequest) {
  RawConnection connection(server_->port());
  connection.Send(
      "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string reply = connection.ReadAll();
  EXPECT_EQ(reply.find("HTTP/1.1"), reply.rfind("HTTP/1.1"));
}

TEST_F(HttpServerTest, PortInUseNamesTheFlag) {
  HttpOptions options;
  options.address = server_->address();
  const Result<std::unique_ptr<HttpServer>> second = HttpServer::Start(options, registry_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.code(), Code::kUnavailable);
  EXPECT_THAT(second.status().message(), HasSubstr(server_->address()));
  EXPECT_THAT(second.status().message(), HasSubstr("--http"));
}

TEST(HttpServerStartTest, WrongAddresses) {
  Registry registry;
  for (const char* address : {"", "host", "127.0.0.1:", "127.0.0.1:99999", "off"}) {
    HttpOptions options;
    options.address = address;
    EXPECT_EQ(HttpServer::Start(options, registry).code(), Code::kInvalidArgument) << address;
  }
  HttpOptions options;
  options.address = "192.0.2.1:0";  // TEST-NET-1: nobody's
  EXPECT_EQ(HttpServer::Start(options, registry).code(), Code::kUnavailable);
}

TEST(HttpServerStartTest, StopsAtOnceWhenIdle) {
  Registry registry;
  HttpOptions options;
  options.address = "127.0.0.1:0";
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(HttpServer::Start(options, registry).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
}

}  // namespace
}  // namespace simm::metrics
