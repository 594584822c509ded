#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/random.h"
#include "common/rpc/map_follower.h"
#include "common/rpc/map_source.h"
#include "common/rpc/map_stream.h"
#include "manager/adoption.h"
#include "manager/membership.h"
#include "manager/servers_first.h"
#include "tests/support/fake_clock.h"

namespace simm::sim {

using Table = std::shared_ptr<const RouteTable>;

// Events in the order of a clock that nobody waits for. One-thread.
class VirtualTime {
 public:
  Instant Now() const { return clock_.Now(); }
  const Clock& clock() const { return clock_; }
  void At(Instant when, std::function<void()> what) {
    events_.push({std::max(when, Now()), ++last_, std::move(what)});
  }
  void After(Duration time, std::function<void()> what) { At(Now() + time, std::move(what)); }
  // Does everything that happens until then.
  void RunUntil(Instant end);

 private:
  struct Event {
    Instant when;
    uint64_t order;
    mutable std::function<void()> what;
    bool operator>(const Event& o) const {
      return when != o.when ? when > o.when : order > o.order;
    }
  };
  FakeClock clock_;
  uint64_t last_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
};

// What one scenario has cost.
struct ScaleFigures {
  uint64_t epochs = 0;
  uint64_t heartbeats = 0, registrations = 0;
  uint64_t diffs = 0, snapshots = 0, up_to_dates = 0;  // messages of all sources
  uint64_t bytes = 0, manager_bytes = 0;               // of all sources; of the manager alone
  uint64_t largest_diff = 0, largest_snapshot = 0;
  uint64_t attempts = 0;                  // streams that watchers tried to open, anywhere
  uint64_t most_attempts_at_manager = 0;  // in any 100 ms, up or down
  uint64_t most_streams_opened = 0;       // by the manager in any 100 ms
  Duration servers_late{};  // longest from an epoch's publication until a server had it or a newer
  Duration clients_late{};
  Duration calm_after{};  // from the disturbance to the last event that changed anything
  double round_cpu = 0, stream_cpu = 0, heartbeat_cpu = 0;  // of the manager's code, in seconds
};

// 1000 data servers and 10,000 clients, or as many as are asked for, around one manager: the real
// Membership, placement, MapBoard, UpdateCache, wire bytes, MapFollower, WatchBackoff and choice of
// addresses under one seed. Simulated are the network (each process sends 10 Gb/s, 0.1 to 0.5 ms
// away), gRPC (a message is its bytes) and the disk (a round of the committer takes 25 ms).
//
// Each update is decoded and applied once for all that hold the same table, and by every 100th
// watcher for itself. One-thread.
class ScaleWorld {
 public:
  ScaleWorld(uint64_t seed, size_t servers, size_t clients, size_t zones);
  ~ScaleWorld();

  // Lets time pass and gives what has happened in it.
  ScaleFigures Run(Duration time);

  void StartServer(size_t server);  // the first time, or again: warm, a higher incarnation
  void KillServer(size_t server);
  void CutOff(size_t server,
              bool cut);  // lives on, but the manager does not hear it nor it the manager
  void AddServer();       // one more; starts it
  void KillManager();
  void StartManager(bool lost_state);
  size_t servers() const { return servers_.size(); }
  size_t zone_of(size_t server) const { return server % zones_; }

  const MapVersion& version() const { return members_->state().map.version; }
  const std::string& frozen() const { return members_->frozen(); }
  std::map<ServerState, uint32_t> states() const { return members_->CountStates(time_.Now()); }
  uint32_t shards_moving() const { return members_->shards_moving(); }
  // Every process that can hear the manager holds its newest map, and routes by it.
  void ExpectAllHaveTheNewest() const;
  size_t watching_manager() const { return board_ ? board_->Watchers() : 0; }

 private:
  struct Message;
  struct Source;
  struct Watcher;
  struct Server;
  struct Stream;
  class Cpu;

  void Tick();
  void Round();
  void Publish(manager::Membership::Draft draft, const Table& table);
  void NoteEpoch(const Table& table);
  void Learn();
  void Register(Server& server);
  void Heartbeat(Server& server, uint64_t life);
  void ReportPulled(Server& server, rpc::HeartbeatRequest& request);
  void Hear(Server& server);

  void Connect(Watcher& watcher, std::vector<std::string> candidates, size_t at);
  void Serve(Watcher& watcher, Source& source);
  void SendNewest(const std::shared_ptr<Stream>& stream);
  void Send(const std::shared_ptr<Stream>& stream, std::shared_ptr<Message> message);
  void Deliver(const std::shared_ptr<Stream>& stream, Message& message);
  void Taken(Watcher& watcher, const Table& table);
  void ExpectServersFirst(const MapVersion& version);
  void Break(const std::shared_ptr<Stream>& stream);
  void EndStreams(Source& source);
  void Retry(Watcher& watcher, bool served);
  std::shared_ptr<Message> MessageFor(Source& source, const RouteTable* sent, const Table& newest);
  void Check(const RouteTable& table) const;
  void CountAttempt(bool at_manager);
  Source* Find(const std::string& address);
  Duration Latency() { return std::chrono::microseconds(100 + random_.Below(400)); }

  VirtualTime time_;
  Random random_;
  const size_t zones_;
  ScaleFigures figures_;
  Instant last_change_;

  // The manager. None: it is down; with `adoption_` it learns.
  std::optional<manager::DurableState> saved_;
  std::unique_ptr<manager::Membership> members_;
  std::unique_ptr<manager::Adoption> adoption_;
  std::unique_ptr<rpc::MapBoard> board_;
  std::unique_ptr<manager::ServersFirst> publication_;
  std::unique_ptr<rpc::UpdateCache> cache_;
  std::unique_ptr<Source> source_;
  std::vector<std::pair<Server*, uint64_t>> registering_;
  bool in_round_ = false;
  uint64_t manager_life_ = 0;
  Instant manager_began_;
  MapVersion clients_newest_;
  std::map<std::pair<uint64_t, uint64_t>, std::pair<Table, Instant>> published_;  // by term, epoch
  Table pull_table_;
  std::map<ServerId, std::vector<uint32_t>> pulls_;  // of pull_table_

  std::vector<std::unique_ptr<Server>> servers_;
  std::vector<std::unique_ptr<Watcher>> clients_;
  std::map<std::string, std::shared_ptr<Message>> messages_;
  rpc::UpdateCache server_cache_{false};  // of all data servers: their bytes are the same
  std::array<uint64_t, 2> in_window_{};   // attempts at the manager, streams opened
  int64_t window_ = 0;
};

}  // namespace simm::sim
