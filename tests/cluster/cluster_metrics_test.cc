// What the client library shows of itself: metrics over HTTP, and the log of slow calls.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <regex>
#include <sstream>

#include "common/base/host_port.h"
#include "tests/support/cluster_fixture.h"

namespace simm {
namespace {

using ::testing::HasSubstr;

std::string Fetch(const std::string& address) {
  const auto parsed = ParseHostPort(address);
  EXPECT_TRUE(parsed.ok()) << address;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(parsed->port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string all;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) {
    const std::string request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    char buffer[4096];
    for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;)
      all.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return all;
}

double Metric(const std::string& text, const std::string& series) {
  const size_t at = text.find("\n" + series + " ");
  EXPECT_NE(at, std::string::npos) << series;
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + series.size() + 2, nullptr);
}

// Takes what is logged for as long as it lives.
class CapturedLog {
 public:
  CapturedLog() : before_(spdlog::default_logger()) {
    auto logger = std::make_shared<spdlog::logger>(
        "captured", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
    logger->set_pattern("%v");
    spdlog::set_default_logger(logger);
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }
  std::string text() const { return text_.str(); }

 private:
  const std::shared_ptr<spdlog::logger> before_;
  std::ostringstream text_;
};

class MetricsTest : public ClusterTest {
 protected:
  void TearDown() override {
    unsetenv("SIMM_METRICS_LISTEN");
    unsetenv("SIMM_SLOW_OP_MS");
  }
  ClientOptions OptionsWith(const std::string& listen) const {
    ClientOptions options;
    options.transport = TestTransport();
    options.addresses = {cluster_->manager_address()};
    options.metrics_listen = listen;
    return options;
  }
  static std::string Keys(const std::string& op, const std::string& outcome,
                          const std::string& transport) {
    return "simm_client_keys_total{op=\"" + op + "\",outcome=\"" + outcome + "\",transport=\"" +
           transport + "\"}";
  }
};

TEST_F(MetricsTest, AllClientsOfAProcessShowWhatTheyDoInOnePlace) {
  StartCluster(1);
  auto shown = Client::Connect(OptionsWith("127.0.0.1:0"));
  ASSERT_TRUE(shown.ok()) << shown.status().ToString();
  EXPECT_EQ(client_->MetricsAddress(), "");
  const std::string address = (*shown)->MetricsAddress();
  const std::string before = Fetch(address);
  const std::string road = TestTransport();

  const auto value = ValueOf(1, 20'000);
  ASSERT_EQ(PutOne(**shown, "a", value), Code::kOk);
  ASSERT_EQ(PutOne(**shown, "b", value), Code::kOk);
  std::vector<std::byte> buffer(3 * value.size());
  std::vector<GetItem> gets;
  for (const char* key : {"a", "b", "absent", "a"})
    gets.push_back({key, buffer.data(), value.size()});
  // Another client, of another engine (it has other options), which is gone at the scrape.
  ClientOptions other = OptionsWith("");
  other.max_lanes_per_server = 2;
  (void)(*Client::Connect(other))->Get(gets);

  const std::string after = Fetch(address);
  const auto grown = [&](const std::string& series) {
    return Metric(after, series) - Metric(before, series);
  };
  EXPECT_EQ(grown(Keys("put", "ok", road)), 2);
  EXPECT_EQ(grown(Keys("get", "ok", road)), 3);
  EXPECT_EQ(grown(Keys("get", "miss", road)), 1);
  EXPECT_EQ(grown("simm_client_call_seconds_count{op=\"get\"}"), 1);
  EXPECT_EQ(grown("simm_client_prefix_hit_keys_sum{op=\"get\"}"), 2) << "up to the first miss";
  EXPECT_EQ(grown("simm_client_value_bytes_total{direction=\"read\"}"), 60'000);
  EXPECT_EQ(grown("simm_client_value_bytes_total{direction=\"written\"}"), 40'000);
  EXPECT_EQ(Metric(after, "simm_client_breakers{state=\"closed\"}"), 1);
  EXPECT_GE(Metric(after, "simm_client_connections{state=\"idle\",transport=\"" + road + "\"}"), 1);

  ASSERT_TRUE((*shown)->RegisterMemory(buffer.data(), buffer.size()).ok());
  EXPECT_EQ(Metric(Fetch(address), "simm_client_registered_bytes"), 60'000);
  shown->reset();
  EXPECT_EQ(Fetch(address), "") << "nobody holds it any more";
}

TEST_F(MetricsTest, AnAddressThatCannotBeHad) {
  StartCluster(1);
  auto first = Client::Connect(OptionsWith("127.0.0.1:0"));
  ASSERT_TRUE(first.ok());
  const std::string taken = (*first)->MetricsAddress();
  const auto refused = Client::Connect(OptionsWith(taken));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_THAT(refused.status().message(), HasSubstr(taken));
  EXPECT_THAT(refused.status().message(), HasSubstr("metrics_listen"));
  for (const char* wrong : {"9400", ":", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:5-4",
                            "127.0.0.1:0-9", "127.0.0.1:1-x"}) {
    EXPECT_EQ(Client::Connect(OptionsWith(wrong)).code(), Code::kInvalidArgument) << wrong;
  }
  // Monitoring that the environment asks for keeps no program from its work.
  setenv("SIMM_METRICS_LISTEN", taken.c_str(), 1);
  const auto warned = Client::Connect(OptionsWith(""));
  ASSERT_TRUE(warned.ok()) << warned.status().ToString();
  EXPECT_EQ((*warned)->MetricsAddress(), "");
  // A range: the next that is free.
  const auto port = static_cast<uint32_t>(ParseHostPort(taken)->port);
  setenv("SIMM_METRICS_LISTEN",
         ("127.0.0.1:" + std::to_string(port) + "-" + std::to_string(port + 20)).c_str(), 1);
  const auto next = Client::Connect(OptionsWith(""));
  ASSERT_TRUE(next.ok());
  EXPECT_NE((*next)->MetricsAddress(), "");
  EXPECT_NE((*next)->MetricsAddress(), taken);
  EXPECT_EQ((*Client::Connect(OptionsWith("off")))->MetricsAddress(), "");
}

TEST_F(MetricsTest, ASlowCallSaysWhereItsTimeWent) {
  StartCluster(1);
  setenv("SIMM_SLOW_OP_MS", "100", 1);
  const auto client = Client::Connect(OptionsWith(""));
  ASSERT_TRUE(client.ok());
  const auto value = ValueOf(1, 20'000);
  CapturedLog log;
  ASSERT_EQ(PutOne(**client, "key", value), Code::kOk);
  EXPECT_THAT(log.text(), Not(HasSubstr("slow"))) << "nothing was, unless the machine stood still";
  // A server that is paused answers nothing: the put waits on the wire until its deadline.
  cluster_->server(0)->Signal(SIGSTOP);
  PutOptions options;
  options.deadline = 300ms;
  EXPECT_NE(PutOne(**client, "other", value, options), Code::kOk);
  cluster_->server(0)->Signal(SIGCONT);
  const std::string text = log.text();
  std::smatch match;
  ASSERT_TRUE(std::regex_search(
      text, match,
      std::regex("slow put: ([0-9.]+) ms of 300 for 1 keys, 19.5 KiB \\(1 DEADLINE_EXCEEDED\\); "
                 "queued [0-9.]+ ms, rounds 1, pauses 0.0 ms; slowest server-0 \\([^)]+\\) with 1 "
                 "keys over " +
                 TestTransport() +
                 ": connect [0-9.]+, resolve ([0-9.]+), post ([0-9.]+), wire ([0-9.]+), validate "
                 "[0-9.]+ ms; session [0-9a-f]{16}, request \\d+; client \\S+:\\d+")))
      << text;
  const double waited = std::stod(match[2]) + std::stod(match[3]) + std::stod(match[4]);
  EXPECT_GE(waited, 200) << text;
  EXPECT_LE(waited, std::stod(match[1]) + 1) << text;
}

TEST_F(MetricsTest, AWrongTimeForSlowCallsIsRefused) {
  StartCluster(1);
  setenv("SIMM_SLOW_OP_MS", "soon", 1);
  const auto client = Client::Connect(OptionsWith(""));
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.code(), Code::kInvalidArgument);
  EXPECT_THAT(client.status().message(), HasSubstr("SIMM_SLOW_OP_MS"));
  ClientOptions options = OptionsWith("");
  options.slow_op = std::chrono::milliseconds(-5);
  EXPECT_EQ(Client::Connect(options).code(), Code::kInvalidArgument);
  options.slow_op = std::chrono::milliseconds(0);
  EXPECT_TRUE(Client::Connect(options).ok()) << "what is given wins over the environment";
}

}  // namespace
}  // namespace simm
