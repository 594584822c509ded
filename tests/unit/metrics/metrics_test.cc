#include "common/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace simm::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsTest, CounterGaugeHistogram) {
  Registry registry;
  const Counter counter = registry.Counter("simm_gets_total", "gets", {{"result", "hit"}});
  counter.Add();
  counter.Add(2);
  const Gauge gauge = registry.Gauge("simm_free_bytes", "free");
  gauge.Set(10);
  gauge.Add(-4);
  const Histogram histogram = registry.Histogram("simm_get_seconds", "latency", LatencyBuckets());
  histogram.Observe(15e-6);
  histogram.Observe(100);
  const std::string text = registry.Scrape();
  EXPECT_THAT(text, HasSubstr("# TYPE simm_gets_total counter"));
  EXPECT_THAT(text, HasSubstr("simm_gets_total{result=\"hit\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("simm_free_bytes 6\n"));
  EXPECT_THAT(text, HasSubstr("simm_get_seconds_bucket{le=\"2e-05\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("simm_get_seconds_bucket{le=\"10\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("simm_get_seconds_bucket{le=\"+Inf\"} 2\n"));
}

TEST(MetricsTest, SameLabelsAreTheSameSeries) {
  Registry registry;
  registry.Counter("c_total", "c", {{"a", "1"}}).Add();
  registry.Counter("c_total", "c", {{"a", "1"}}).Add();
  EXPECT_THAT(registry.Scrape(), HasSubstr("c_total{a=\"1\"} 2\n"));
}

TEST(MetricsTest, SeriesAreBounded) {
  Registry registry;
  for (size_t i = 0; i < 2 * kMaxSeriesPerFamily; ++i) {
    registry.Counter("c_total", "c", {{"key", std::to_string(i)}}).Add();
  }
  const std::string text = registry.Scrape();
  EXPECT_THAT(text, HasSubstr("c_total{key=\"255\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("key=\"256\"")));
  EXPECT_THAT(text, HasSubstr("c_total{key=\"other\"} 256\n"));
}

TEST(MetricsTest, CollectorsRunAtTheScrape) {
  Registry registry;
  double value = 1;
  const uint64_t id = registry.AddCollector([&](Sink& sink) {
    sink.Gauge("pool_bytes", "by state", {{"state", "free"}}, value);
    sink.Gauge("pool_bytes", "by state", {{"state", "live"}}, 7);
    sink.Counter("evictions_total", "evictions", {}, 3);
  });
  value = 5;
  EXPECT_THAT(registry.Scrape(), HasSubstr("pool_bytes{state=\"free\"} 5\n"));
  EXPECT_THAT(registry.Scrape(), HasSubstr("pool_bytes{state=\"live\"} 7\n"));
  EXPECT_THAT(registry.Scrape(), HasSubstr("evictions_total 3\n"));
  registry.RemoveCollector(id);
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("pool_bytes")));
}

TEST(MetricsTest, ProcessFacts) {
  Registry registry;
  AddProcessMetrics(registry, "simm-test", "1.2.3");
  const std::string text = registry.Scrape();
  EXPECT_THAT(text, HasSubstr("simm_build_info{program=\"simm-test\",version=\"1.2.3\"} 1"));
  for (const char* name : {"process_cpu_seconds_total ", "process_resident_memory_bytes ",
                           "process_open_fds ", "process_threads "}) {
    EXPECT_THAT(text, HasSubstr(name));
  }
}

TEST(MetricsTest, ThreadsCountTogether) {
  Registry registry;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 1000; ++n) registry.Counter("c_total", "c", {{"a", "x"}}).Add();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(registry.Scrape(), HasSubstr("c_total{a=\"x\"} 4000\n"));
}

}  // namespace
}  // namespace simm::metrics
