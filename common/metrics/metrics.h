#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

// Metrics in the Prometheus text format. Names follow its conventions: base units (seconds, bytes),
// counters end in _total. This header hides prometheus-cpp, which is slow to compile.
namespace simm::metrics {

using Labels = std::map<std::string, std::string>;

// Series of one family. Beyond it all further label values share one series whose values are
// "other": a label that a client can choose must not be able to fill the memory.
inline constexpr size_t kMaxSeriesPerFamily = 256;

// A handle is a pointer that lives as long as its Registry. Copy freely; thread-safe; must not be
// used empty.
class Counter {
 public:
  Counter() = default;
  void Add(double value = 1) const;  // value >= 0

 private:
  friend class Registry;
  void* metric_ = nullptr;
};

class Gauge {
 public:
  Gauge() = default;
  void Set(double value) const;
  void Add(double value) const;

 private:
  friend class Registry;
  void* metric_ = nullptr;
};

class Histogram {
 public:
  Histogram() = default;
  void Observe(double value) const;

 private:
  friend class Registry;
  void* metric_ = nullptr;
};

// Upper bounds: 10 us to 10 s in seconds, three a decade; 64 B to 1 GiB in bytes, powers of four.
const std::vector<double>& LatencyBuckets();
const std::vector<double>& ByteBuckets();

// Receives the values that a collector computes at the time of a scrape.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void Counter(const std::string& name, const std::string& help, const Labels& labels,
                       double value) = 0;
  virtual void Gauge(const std::string& name, const std::string& help, const Labels& labels,
                     double value) = 0;
  // `counts` of each bucket alone, one more than `bounds`: the last has no upper bound.
  virtual void Histogram(const std::string& name, const std::string& help, const Labels& labels,
                         const std::vector<double>& bounds, const std::vector<uint64_t>& counts,
                         double sum) = 0;
};
using Collector = std::function<void(Sink& sink)>;

// All metrics of a process. Thread-safe. Handles and the families behind them live until it is
// destroyed.
//
// Counter, Gauge and Histogram give the series of these labels and make it at the first call: look
// it up once and keep the handle where the path is hot. A name belongs to one kind; all its series
// have the same label names.
class Registry {
 public:
  Registry();
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  metrics::Counter Counter(const std::string& name, const std::string& help,
                           const Labels& labels = {});
  metrics::Gauge Gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  metrics::Histogram Histogram(const std::string& name, const std::string& help,
                               const std::vector<double>& buckets, const Labels& labels = {});

  // Runs at each scrape, on the scraping thread; one scrape at a time. What it uses must outlive
  // the registry or the RemoveCollector, which waits for a scrape in progress. Must not call the
  // registry.
  uint64_t AddCollector(Collector collector);
  void RemoveCollector(uint64_t id);

  // Everything in the Prometheus text format, version 0.0.4.
  std::string Scrape();

 private:
  class Families;
  std::unique_ptr<Families> families_;
};

// simm_build_info, process_cpu_seconds_total, process_resident_memory_bytes, process_open_fds,
// process_threads and process_start_time_seconds, read from /proc at each scrape.
void AddProcessMetrics(Registry& registry, const std::string& program, const std::string& version);

}  // namespace simm::metrics
