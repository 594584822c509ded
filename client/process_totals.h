#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "client/client.h"
#include "client/op_metrics.h"
#include "common/base/mutex.h"
#include "common/metrics/metrics.h"

namespace simm::client {

class Engine;

// What all engines of this process have counted, those that are gone included: counters of a
// process never fall. Thread-safe; one a process, never destroyed.
class ProcessTotals {
 public:
  static ProcessTotals& Get();

  // From its start to the beginning of its end. Remove waits for a scrape that is looking at it.
  void Add(Engine* engine);
  void Remove(Engine* engine);
  // Everything, for a scrape. Takes no lock that a call waits for, beyond a look at each server's
  // lanes and at the registered memory.
  void Collect(metrics::Sink& sink);

 private:
  struct Counted {
    ClientStats stats;
    OpTotals ops;
  };
  Mutex mutex_;
  std::set<Engine*> engines_ SIMM_GUARDED_BY(mutex_);
  Counted gone_ SIMM_GUARDED_BY(mutex_);
};

// Shows the metrics of this process over HTTP, for as long as somebody holds it.
class Exporter {
 public:
  // `listen`: HOST:PORT, port 0 for any that is free, or HOST:FIRST-LAST for the first that is free
  // of these: then every process of a machine can be told the same. Clients of a process that name
  // the same share one. kInvalidArgument: not an address. kUnavailable: none can be had.
  static Result<std::shared_ptr<Exporter>> Open(const std::string& listen);
  ~Exporter();

  // Where it listens, with its port.
  const std::string& address() const;

 private:
  class State;
  explicit Exporter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace simm::client
