#include "manager/status_page.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/rpc/cluster_health.h"
#include "common/rpc/status_json.h"
#include "manager/status_page/page.h"

namespace simm::manager {
namespace {

using metrics::HttpReply;
using metrics::HttpRequest;
using nlohmann::json;
using rpc::ToJson;

constexpr Duration kLookEvery = std::chrono::seconds(1);
constexpr uint32_t kMaxEventsShown = 200;
constexpr std::string_view kNonceMark = "@NONCE@";

uint64_t UnixMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(now / std::chrono::milliseconds(1));
}

HttpReply Json(const json& object, int status = 200) {
  // Names come from elsewhere: what is not UTF-8 is replaced.
  return {.status = status,
          .content_type = "application/json",
          .body = object.dump(-1, ' ', false, json::error_handler_t::replace),
          .headers = {{"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}}};
}

// The number of ?after=; 0 without. Nothing: it is not a number.
std::optional<uint64_t> AfterOf(const HttpRequest& request) {
  const auto found = request.parameters.find("after");
  if (found == request.parameters.end()) return 0;
  uint64_t number = 0;
  const std::string& text = found->second;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

HttpReply BadNumber() {
  return Json({{"problem", "after= wants the number of the last entry seen, e.g. after=12"}}, 400);
}

json ToJson(const rpc::NodeStatus& node) {
  json transports = json::array();
  for (const rpc::TransportStatus& entry : node.stats.transports) {
    if (entry.offered) transports.push_back({{"name", entry.name}, {"open", entry.connections}});
  }
  return {{"name", node.record.name},
          {"id", node.record.id},
          {"state", ServerStateName(node.record.state)},
          {"zone", node.record.zone},
          {"address", node.record.data_address},
          {"version", node.version},
          {"shards", node.shards},
          {"shards_coming", node.shards_coming},
          {"shards_leaving", node.shards_leaving},
          {"silent_ms", node.silent_ms},
          {"epoch", node.map.epoch},
          {"transports", transports},
          {"stats", ToJson(node.stats)},
          {"rates", ToJson(node.rates)},
          {"migration",
           {{"shards_to_pull", node.migration.shards_to_pull},
            {"bytes_pulled", node.migration.bytes_pulled},
            {"bytes_left", node.migration.bytes_left},
            {"entries_given_up", node.migration.entries_given_up}}}};
}

json ToJson(const rpc::ClusterHealth& health) {
  return {{"word", HealthName(health.word)}, {"findings", ToJson(health.findings)}};
}

json ToJson(const rpc::Event& event) {
  return {{"number", event.number},
          {"unix_ms", event.unix_ms},
          {"kind", rpc::EventKindName(event.kind)},
          {"server", event.server},
          {"epoch", event.map.epoch},
          {"text", event.text}};
}

}  // namespace

StatusPage::StatusPage(rpc::ManagerHandler& manager, ClusterHistory& history, Clock& clock)
    : manager_(manager), history_(history), clock_(clock), thread_([this] { Run(); }) {}

StatusPage::~StatusPage() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  thread_.join();
}

void StatusPage::Run() {
  Instant next = clock_.Now();
  for (;;) {
    {
      MutexLock lock(mutex_);
      while (!stopping_) {
        const Duration left = next - clock_.Now();
        if (left <= Duration::zero()) break;
        wake_.WaitFor(mutex_, left);
      }
      if (stopping_) return;
    }
    const Instant now = clock_.Now();
    // Looks that were missed (the process was paused) stay missed.
    next = std::max(next + kLookEvery, now);
    if (const auto status = manager_.GetStatus(); status.ok()) {
      history_.Add(now, UnixMs(), *status);
    }
  }
}

void StatusPage::ServeOn(metrics::HttpServer& http) {
  http.AddRoute("/", [this](const HttpRequest&) { return Page(); });
  http.AddRoute("/api/status", [this](const HttpRequest&) { return Status(); });
  http.AddRoute("/api/history", [this](const HttpRequest& r) { return History(r); });
  http.AddRoute("/api/events", [this](const HttpRequest& r) { return Events(r); });
}

HttpReply StatusPage::Page() const {
  std::string body(kPage);
  const std::string nonce = ToString(NewId128());
  for (size_t at = body.find(kNonceMark); at != std::string::npos; at = body.find(kNonceMark, at)) {
    body.replace(at, kNonceMark.size(), nonce);
  }
  // Nothing but what this very answer carries runs or styles, and it may ask this manager alone.
  const std::string policy = "default-src 'none'; script-src 'nonce-" + nonce +
                             "'; style-src 'nonce-" + nonce +
                             "'; connect-src 'self'; img-src data:; base-uri 'none'; "
                             "form-action 'none'; frame-ancestors 'none'";
  return {.content_type = "text/html; charset=utf-8",
          .body = std::move(body),
          .headers = {{"Content-Security-Policy", policy},
                      {"Cache-Control", "no-store"},
                      {"Referrer-Policy", "no-referrer"},
                      {"X-Content-Type-Options", "nosniff"}}};
}

HttpReply StatusPage::Failure(const simm::Status& status) const {
  return Json(
      {{"run", run_}, {"problem", status.message()}, {"leader", manager_.LeaderElsewhere()}}, 503);
}

HttpReply StatusPage::Status() const {
  const Result<rpc::ClusterStatus> got = manager_.GetStatus();
  if (!got.ok()) return Failure(got.status());
  const rpc::ClusterStatus& status = *got;
  const rpc::ClusterTotals totals = SumOf(status);
  json nodes = json::array();
  for (const rpc::NodeStatus& node : status.nodes) nodes.push_back(ToJson(node));
  return Json({{"run", run_},
               {"unix_ms", UnixMs()},
               {"health", ToJson(AssessHealth(status))},
               {"cluster", ToString(status.map.cluster)},
               {"term", status.map.term},
               {"epoch", status.map.epoch},
               {"manager_version", status.manager_version},
               {"uptime_ms", status.uptime_ms},
               {"watchers", status.watchers},
               {"leader", status.leader},
               {"namespaces", status.namespaces},
               {"servers",
                {{"alive", totals.alive},
                 {"suspect", totals.suspect},
                 {"dead", totals.dead},
                 {"draining", totals.draining}}},
               {"shards", limits::kShards},
               {"shards_moving", totals.shards_moving},
               {"stats", ToJson(totals.stats)},
               {"rates", ToJson(status.rates)},
               {"nodes", nodes}});
}

HttpReply StatusPage::History(const HttpRequest& request) const {
  const auto after = AfterOf(request);
  if (!after.has_value()) return BadNumber();
  json samples = json::array();
  for (const HistorySample& sample : history_.List(*after)) {
    json entry = ToJson(sample.rates);
    entry["number"] = sample.number;
    entry["unix_ms"] = sample.unix_ms;
    entry["data_bytes"] = sample.data_bytes;
    entry["live_bytes"] = sample.live_bytes;
    entry["entries"] = sample.entries;
    entry["servers_alive"] = sample.servers_alive;
    samples.push_back(std::move(entry));
  }
  return Json({{"run", run_}, {"samples", samples}});
}

HttpReply StatusPage::Events(const HttpRequest& request) const {
  const auto after = AfterOf(request);
  if (!after.has_value()) return BadNumber();
  const auto events = manager_.ListEvents(*after, kMaxEventsShown);
  if (!events.ok()) return Failure(events.status());
  json list = json::array();
  for (const rpc::Event& event : *events) list.push_back(ToJson(event));
  return Json({{"run", run_}, {"events", list}});
}

}  // namespace simm::manager
