#include "common/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <limits>
#include <set>
#include <utility>

#include "common/base/mutex.h"

namespace simm::metrics {
namespace {

// Gathers what collectors say into families, in the order of their names.
class FamilySink final : public Sink {
 public:
  void Counter(const std::string& name, const std::string& help, const Labels& labels,
               double value) override {
    prometheus::ClientMetric metric = Labelled(labels);
    metric.counter.value = value;
    Append(name, help, prometheus::MetricType::Counter, std::move(metric));
  }
  void Gauge(const std::string& name, const std::string& help, const Labels& labels,
             double value) override {
    prometheus::ClientMetric metric = Labelled(labels);
    metric.gauge.value = value;
    Append(name, help, prometheus::MetricType::Gauge, std::move(metric));
  }
  void Histogram(const std::string& name, const std::string& help, const Labels& labels,
                 const std::vector<double>& bounds, const std::vector<uint64_t>& counts,
                 double sum) override {
    prometheus::ClientMetric metric = Labelled(labels);
    uint64_t total = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      total += counts[i];
      prometheus::ClientMetric::Bucket bucket;
      bucket.cumulative_count = total;
      bucket.upper_bound = i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back(bucket);
    }
    metric.histogram.sample_count = total;
    metric.histogram.sample_sum = sum;
    Append(name, help, prometheus::MetricType::Histogram, std::move(metric));
  }
  std::vector<prometheus::MetricFamily> Take() {
    std::vector<prometheus::MetricFamily> list;
    for (auto& [name, family] : families_) list.push_back(std::move(family));
    return list;
  }

 private:
  static prometheus::ClientMetric Labelled(const Labels& labels) {
    prometheus::ClientMetric metric;
    for (const auto& [name, value] : labels) metric.label.push_back({name, value});
    return metric;
  }
  void Append(const std::string& name, const std::string& help, prometheus::MetricType type,
              prometheus::ClientMetric metric) {
    prometheus::MetricFamily& family = families_[name];
    family.name = name;
    family.help = help;
    family.type = type;
    // The bound holds here too; there is no series to share, since these values may not add up.
    if (family.metric.size() < kMaxSeriesPerFamily) family.metric.push_back(std::move(metric));
  }

  std::map<std::string, prometheus::MetricFamily> families_;
};

}  // namespace

class Registry::Families {
 public:
  template <typename T>
  struct Known {
    prometheus::Family<T>* family = nullptr;
    std::set<Labels> series;
  };

  // The labels themselves while there is room, else "other" for each.
  template <typename T>
  static Labels Bounded(Known<T>& known, const Labels& labels) {
    if (known.series.contains(labels)) return labels;
    if (known.series.size() < kMaxSeriesPerFamily) {
      known.series.insert(labels);
      return labels;
    }
    Labels other = labels;
    for (auto& [name, value] : other) value = "other";
    return other;
  }

  Mutex mutex;
  prometheus::Registry registry;  // itself thread-safe
  std::map<std::string, Known<prometheus::Counter>> counters SIMM_GUARDED_BY(mutex);
  std::map<std::string, Known<prometheus::Gauge>> gauges SIMM_GUARDED_BY(mutex);
  std::map<std::string, Known<prometheus::Histogram>> histograms SIMM_GUARDED_BY(mutex);

  Mutex collectors_mutex;  // held while collectors run
  std::map<uint64_t, Collector> collectors SIMM_GUARDED_BY(collectors_mutex);
  uint64_t next_collector SIMM_GUARDED_BY(collectors_mutex) = 1;
};

void Counter::Add(double value) const {
  static_cast<prometheus::Counter*>(metric_)->Increment(value);
}
void Gauge::Set(double value) const { static_cast<prometheus::Gauge*>(metric_)->Set(value); }
void Gauge::Add(double value) const { static_cast<prometheus::Gauge*>(metric_)->Increment(value); }
void Histogram::Observe(double value) const {
  static_cast<prometheus::Histogram*>(metric_)->Observe(value);
}

const std::vector<double>& LatencyBuckets() {
  static const std::vector<double> kBuckets = {10e-6,  20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3,
                                               2e-3,   5e-3,  10e-3, 20e-3,  50e-3,  100e-3, 200e-3,
                                               500e-3, 1.0,   2.0,   5.0,    10.0};
  return kBuckets;
}

const std::vector<double>& ByteBuckets() {
  static const std::vector<double> kBuckets = [] {
    std::vector<double> buckets;
    for (double bytes = 64; bytes <= 1024.0 * 1024 * 1024; bytes *= 4) buckets.push_back(bytes);
    return buckets;
  }();
  return kBuckets;
}

Registry::Registry() : families_(std::make_unique<Families>()) {}
Registry::~Registry() = default;

Counter Registry::Counter(const std::string& name, const std::string& help, const Labels& labels) {
  MutexLock lock(families_->mutex);
  auto& known = families_->counters[name];
  if (known.family == nullptr) {
    known.family = &prometheus::BuildCounter().Name(name).Help(help).Register(families_->registry);
  }
  metrics::Counter handle;
  handle.metric_ = &known.family->Add(Families::Bounded(known, labels));
  return handle;
}

Gauge Registry::Gauge(const std::string& name, const std::string& help, const Labels& labels) {
  MutexLock lock(families_->mutex);
  auto& known = families_->gauges[name];
  if (known.family == nullptr) {
    known.family = &prometheus::BuildGauge().Name(name).Help(help).Register(families_->registry);
  }
  metrics::Gauge handle;
  handle.metric_ = &known.family->Add(Families::Bounded(known, labels));
  return handle;
}

Histogram Registry::Histogram(const std::string& name, const std::string& help,
                              const std::vector<double>& buckets, const Labels& labels) {
  MutexLock lock(families_->mutex);
  auto& known = families_->histograms[name];
  if (known.family == nullptr) {
    known.family =
        &prometheus::BuildHistogram().Name(name).Help(help).Register(families_->registry);
  }
  metrics::Histogram handle;
  handle.metric_ = &known.family->Add(Families::Bounded(known, labels), buckets);
  return handle;
}

uint64_t Registry::AddCollector(Collector collector) {
  MutexLock lock(families_->collectors_mutex);
  const uint64_t id = families_->next_collector++;
  families_->collectors.emplace(id, std::move(collector));
  return id;
}

void Registry::RemoveCollector(uint64_t id) {
  MutexLock lock(families_->collectors_mutex);
  families_->collectors.erase(id);
}

std::string Registry::Scrape() {
  std::vector<prometheus::MetricFamily> all = families_->registry.Collect();
  FamilySink sink;
  {
    MutexLock lock(families_->collectors_mutex);
    for (const auto& [id, collector] : families_->collectors) collector(sink);
  }
  for (prometheus::MetricFamily& family : sink.Take()) all.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(all);
}

}  // namespace simm::metrics
