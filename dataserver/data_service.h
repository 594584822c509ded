#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/base/status.h"
#include "common/transport/event_loop.h"
#include "common/transport/transport.h"
#include "dataserver/data_session.h"

namespace simm::dataserver {

// Serves the data plane: accepts connections and drives them, each on one of a few event-loop
// threads. Thread-safe.
class DataService {
 public:
  // `threads` >= 1. The acceptors, one for each transport, listen already; the context outlives the
  // service.
  DataService(DataContext& context, std::vector<std::unique_ptr<transport::Acceptor>> acceptors,
              size_t threads);
  ~DataService();  // Stop
  // Answers what has been asked, waiting at most `grace`, then closes every connection and ends the
  // threads. Idempotent.
  void Stop(Duration grace);

 private:
  struct Worker {
    transport::EventLoop loop;
    std::unordered_map<int, std::unique_ptr<DataSession>>
        sessions;  // by descriptor; of its own thread
    std::atomic<size_t> load{0};
    std::thread thread;
  };

  void AcceptWaiting(transport::Acceptor& acceptor);
  void RestOutOfDescriptors(transport::Acceptor& acceptor);
  void Adopt(Worker& worker, std::shared_ptr<std::unique_ptr<transport::Connection>> connection);
  void Drive(Worker& worker, int fd);
  void Tick(Worker& worker);

  DataContext& context_;
  std::vector<std::unique_ptr<transport::Acceptor>> acceptors_;
  std::vector<std::unique_ptr<Worker>> workers_;
  bool stopped_ = false;
};

}  // namespace simm::dataserver
