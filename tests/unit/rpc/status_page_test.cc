#include "manager/status_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "manager/service.h"
#include "tests/unit/rpc/sample_map.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using rpc::Eventually;
using ::testing::HasSubstr;
using ::testing::Not;

class MemoryStore final : public Store {
 public:
  Result<std::optional<DurableState>> Load() override { return state_; }
  Status Save(const DurableState& state) override {
    state_ = state;
    return Status::Ok();
  }

 private:
  std::optional<DurableState> state_;
};

class StatusPageTest : public testing::Test {
 protected:
  void Start(bool new_cluster) {
    ManagerService::Options options;
    options.version = "1.2.3";
    options.new_cluster = new_cluster;
    options.add_rates = [this](rpc::ClusterStatus& status) { history_.FillRates(status); };
    service_ = *ManagerService::Start(options, store_, MonotonicClock::Get(), board_, registry_);
    page_ = std::make_unique<StatusPage>(*service_, history_, MonotonicClock::Get());
    metrics::HttpOptions http;
    http.address = "127.0.0.1:0";
    http_ = *metrics::HttpServer::Start(http, registry_);
    page_->ServeOn(*http_);
  }
  ServerId Join(const std::string& name, const std::string& zone = "") {
    rpc::RegisterRequest request;
    request.name = name;
    request.zone = zone;
    request.pool_id = {1, std::hash<std::string>()(name) | 1};
    request.boot_id = {2, 1};
    request.control_address = "127.0.0.1:7";
    request.data_address = "127.0.0.1:8";
    request.weight = 1 << 20;
    const auto reply = service_->Register(request);
    EXPECT_TRUE(reply.ok()) << reply.status().ToString();
    return reply->id;
  }
  void Beat(ServerId id, uint64_t hits) {
    rpc::HeartbeatRequest beat;
    beat.id = id;
    beat.boot_id = {2, 1};
    beat.stats.data_bytes = 4096;
    beat.stats.live_bytes = 1024;
    beat.stats.hits = hits;
    EXPECT_TRUE(service_->Heartbeat(beat).ok());
  }
  httplib::Result Get(const std::string& target) {
    return httplib::Client("127.0.0.1", http_->port()).Get(target);
  }
  json GetJson(const std::string& target, int status = 200) {
    const auto answer = Get(target);
    EXPECT_EQ(answer->status, status) << target << answer->body;
    EXPECT_EQ(answer->get_header_value("Content-Type"), "application/json");
    EXPECT_EQ(answer->get_header_value("Cache-Control"), "no-store");
    return json::parse(answer->body);
  }

  MemoryStore store_;
  rpc::MapBoard board_{true};
  metrics::Registry registry_;
  ClusterHistory history_;
  std::unique_ptr<ManagerService> service_;
  std::unique_ptr<StatusPage> page_;
  std::unique_ptr<metrics::HttpServer> http_;
};

TEST_F(StatusPageTest, ThePageCarriesEverythingAndItsOwnPolicy) {
  Start(true);
  const auto first = Get("/");
  EXPECT_EQ(first->status, 200);
  EXPECT_EQ(first->get_header_value("Content-Type"), "text/html; charset=utf-8");
  EXPECT_EQ(first->get_header_value("X-Content-Type-Options"), "nosniff");
  // Nothing is fetched from elsewhere, no mark of the build is left, no script in an attribute.
  for (const char* never : {"http://", "https://", "@NONCE@", "@STYLE@", "@SCRIPT@",
                            " src=", "onclick=", "innerHTML"}) {
    std::string body = first->body;
    // The name of SVG's elements is an address that nobody calls.
    if (const size_t at = body.find("http://www.w3.org/2000/svg"); at != std::string::npos) {
      body.erase(at, 7);
    }
    EXPECT_THAT(body, Not(HasSubstr(never)));
  }
  EXPECT_THAT(first->body, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(first->body, HasSubstr("fetch(path"));
  const std::string policy = first->get_header_value("Content-Security-Policy");
  EXPECT_THAT(policy, HasSubstr("default-src 'none'; script-src 'nonce-"));
  EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
  const std::string nonce = policy.substr(policy.find("nonce-") + 6, 32);
  EXPECT_THAT(first->body, HasSubstr("<script nonce=\"" + nonce + "\">"));
  EXPECT_THAT(first->body, HasSubstr("<style nonce=\"" + nonce + "\">"));
  EXPECT_THAT(Get("/")->body, Not(HasSubstr(nonce)));  // good for one answer
}

TEST_F(StatusPageTest, StatusOfAnEmptyAndOfALivingCluster) {
  Start(true);
  json status = GetJson("/api/status");
  EXPECT_EQ(status["health"]["word"], "empty");
  EXPECT_THAT(status["health"]["findings"][0]["mend"].get<std::string>(),
              HasSubstr("simm-dataserver"));
  const ServerId id = Join("one", "rack 7");
  Beat(id, 5);
  status = GetJson("/api/status");
  EXPECT_EQ(status["health"]["word"], "healthy");
  EXPECT_TRUE(status["health"]["findings"].empty());
  EXPECT_EQ(status["manager_version"], "1.2.3");
  EXPECT_EQ(status["servers"]["alive"], 1);
  EXPECT_EQ(status["shards"], 65536);
  EXPECT_EQ(status["stats"]["live_bytes"], 1024);
  ASSERT_EQ(status["nodes"].size(), 1u);
  const json& node = status["nodes"][0];
  EXPECT_EQ(node["name"], "one");
  EXPECT_EQ(node["zone"], "rack 7");
  EXPECT_EQ(node["state"], "alive");
  EXPECT_EQ(node["shards"], 65536);
  EXPECT_EQ(node["stats"]["hits"], 5);
}

TEST_F(StatusPageTest, HistoryGrowsAndOnlyWhatIsNewIsSent) {
  Start(true);
  const ServerId id = Join("one");
  uint64_t hits = 0;
  ASSERT_TRUE(Eventually([&] {
    Beat(id, hits += 10);
    const json samples = GetJson("/api/history")["samples"];
    return samples.size() >= 3 && samples.back()["hits"] > 0;
  }));
  const json all = GetJson("/api/history");
  const uint64_t last = all["samples"].back()["number"];
  EXPECT_EQ(all["samples"][0]["number"], 1);
  EXPECT_EQ(all["samples"].back()["data_bytes"], 4096);
  const json later = GetJson("/api/history?after=" + std::to_string(last));
  EXPECT_LE(later["samples"].size(), 1u);  // of the second that may have passed
  EXPECT_EQ(later["run"], all["run"]);
  EXPECT_GT(GetJson("/api/status")["rates"]["hits"], 0);
}

TEST_F(StatusPageTest, Events) {
  Start(true);
  Join("one");
  const json events = GetJson("/api/events")["events"];
  ASSERT_GE(events.size(), 2u);
  EXPECT_EQ(events[0]["kind"], "manager_started");
  EXPECT_EQ(events[1]["server"], "one");
  const std::string last = std::to_string(events.back()["number"].get<uint64_t>());
  EXPECT_TRUE(GetJson("/api/events?after=" + last)["events"].empty());
}

TEST_F(StatusPageTest, BadNumbersAreRefused) {
  Start(true);
  for (const char* path : {"/api/history", "/api/events"}) {
    for (const char* text : {"", "-1", "x", "1x", "99999999999999999999999"}) {
      const json reply = GetJson(std::string(path) + "?after=" + text, 400);
      EXPECT_THAT(reply["problem"].get<std::string>(), HasSubstr("after=12"));
    }
  }
}

TEST_F(StatusPageTest, AManagerThatLearnsSaysSo) {
  Start(false);
  const json status = GetJson("/api/status", 503);
  EXPECT_THAT(status["problem"].get<std::string>(), HasSubstr("map"));
  EXPECT_EQ(status["leader"], "");
  EXPECT_TRUE(GetJson("/api/history")["samples"].empty());
  EXPECT_EQ(Get("/")->status, 200);
}

}  // namespace
}  // namespace simm::manager
