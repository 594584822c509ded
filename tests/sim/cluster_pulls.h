#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <semaphore>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/routing/route_table.h"
#include "dataserver/migrator.h"

namespace simm::sim {

class World;
class Node;
using Table = std::shared_ptr<const RouteTable>;

// Runs code that blocks a little at a time, so that it can be part of a simulation: on a thread
// that moves only while Resume waits for it. Used by one thread.
class Fiber {
 public:
  explicit Fiber(std::function<void(Fiber&)> body);
  ~Fiber();  // the body has returned
  // Until the next Yield, or the end. False: the body has returned.
  bool Resume();
  void Yield();  // inside the body only

 private:
  std::binary_semaphore go_{0}, back_{0};
  bool over_ = false;
  std::thread thread_;
};

// The pulls of one data server's process: the product's Migrator over simulated lanes, two at once.
class Puller {
 public:
  // Both are borrowed.
  Puller(World& world, Node& node, dataserver::Pool& pool);
  ~Puller();

  void OnTable(Table table, ServerId self) { migrator_.OnTable(std::move(table), self); }
  void Step();
  bool idle() const;  // holds nothing of the pool
  std::vector<uint32_t> Pulled(const RouteTable& table) const;

 private:
  struct Pull {
    std::unique_ptr<Fiber> fiber;
    bool busy = false;  // with a source
    int source = 0;     // its place in the network; 0: not connected
    bool given_up = false;
    Instant last_moved{};
  };
  dataserver::Migrator::Options Options();
  Result<std::unique_ptr<transport::Connection>> Connect(const ServerRecord& source);
  void Move(Pull& pull);
  void ForgetWhatIsNewer();
  std::vector<uint32_t> WithSource(const RouteTable& table) const;  // of this server's shards

  World& world_;
  Node& node_;
  const uint64_t pace_;  // moves in one of so many steps
  bool ending_ = false;
  Pull* running_ = nullptr;
  dataserver::Migrator migrator_;
  std::deque<Pull> pulls_;
};

}  // namespace simm::sim
