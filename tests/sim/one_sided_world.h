#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "common/protocol/messages.h"
#include "common/protocol/validated_read.h"
#include "common/routing/key_hash.h"
#include "common/transport/transport.h"
#include "dataserver/data_session.h"
#include "dataserver/one_sided_state.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"

namespace simm::sim {

inline constexpr uint64_t kValueSizes[] = {100, 3000, 20'000};
inline constexpr ServerId kSelf = 7;
inline constexpr char kNamespace[] = "default";

inline Hash128 HashOfKey(std::string_view key) { return HashKey(key, NamespaceSeed(kNamespace)); }
// Owns every shard; shared by all seeds.
std::shared_ptr<const RouteTable> OwnEverything();

// What is known about the puts of all keys, to judge what readers see. One-thread.
class History {
 public:
  struct Put {
    uint64_t version;
    uint64_t size;
    bool dead = false;  // its writer was told that it is not published
  };
  void Posted(const std::string& key, uint64_t version, uint64_t size) {
    puts_[key].push_back({version, size, false});
  }
  void Dead(const std::string& key, uint64_t version) {
    for (Put& put : puts_[key]) put.dead |= put.version == version;
  }
  void Acknowledged(const std::string& key) { acknowledged_.insert(key); }
  // Those that a read beginning now may see.
  std::vector<Put> Visible(const std::string& key) const {
    std::vector<Put> visible;
    if (const auto it = puts_.find(key); it != puts_.end()) visible = it->second;
    std::erase_if(visible, [](const Put& put) { return put.dead; });
    return visible;
  }
  const std::set<std::string>& acknowledged() const { return acknowledged_; }

 private:
  std::map<std::string, std::vector<Put>> puts_;
  std::set<std::string> acknowledged_;
};

struct Counts {
  int puts = 0, exists = 0, gone = 0, corrupt = 0, crashes = 0, resolves = 0, resolved_ok = 0,
      recalls = 0, returns = 0, hits = 0, misses = 0, wrong = 0, retries = 0, asked = 0;
  void Add(const Counts& o);
};

// The data server's side: pool, tables and one DataSession for each connection, on a transport
// whose work moves one piece in each `step`. One-thread, under one seed, with a fake clock.
class Server {
 public:
  using Wrap =
      std::function<std::unique_ptr<transport::Connection>(std::unique_ptr<transport::Connection>)>;
  // `wrap`: of each connection that it takes; may be empty.
  Server(transport::Transport& transport, bool verify_puts, Wrap wrap = {});
  ~Server();

  // A bounded piece of work of one connection, or a tick when its time has come.
  void Step(Random& random);
  // As if this much time passed in which nobody said anything.
  void Rest(Duration time);
  void CheckBooks();

  FakeClock clock;
  std::unique_ptr<dataserver::Pool> pool;
  dataserver::DataMetrics metrics;
  std::unique_ptr<dataserver::SessionTable> sessions;
  std::unique_ptr<dataserver::OneSidedState> state;
  std::unique_ptr<transport::LocalRegion> index_region, data_region;
  transport::RemoteRegion index, data;

 private:
  void Tick();

  const Wrap wrap_;
  std::atomic<ServerId> self_{kSelf};
  MapHolder map_;
  std::unique_ptr<dataserver::DataContext> context_;
  std::unique_ptr<transport::Acceptor> acceptor_;
  std::vector<std::unique_ptr<dataserver::DataSession>> connections_;
  Instant last_tick_;
};

// One connection of a client, with its leases and at most one put under way. One-thread.
class Lane final : public transport::Receiver, private transport::Completion {
 public:
  struct Extent {
    uint64_t lease, generation, offset, bytes;
  };
  struct Put {
    std::string key;
    uint64_t version, size;
    bool replace;
    bool damaged;  // the writer commits what it has not written
    Extent extent{};
    bool posted = false;
  };
  Lane(transport::Transport& transport, Server& server, History& history, Counts& counts,
       uint64_t session);
  ~Lane() override;

  bool closed() const { return connection_->closed(); }
  bool Progress() { return connection_->Progress(); }
  uint64_t id() const { return id_; }
  const std::optional<Put>& put() const { return put_; }
  bool waiting() const { return waiting_; }
  size_t idle() const { return stock_.size(); }

  void BeginPut(Put put, Random& random);
  void ReturnIdle(uint64_t lease);  // 0: of all
  void Ping();
  // Asks after the put of another lane, whose writer has given it up.
  void Resolve(uint64_t lane, const Put& put);
  // A one-sided read to its end; `turn` lets the rest of the world move.
  Status Read(const transport::RemoteRegion& region, uint64_t offset,
              std::vector<transport::MutableSegment> local, const std::function<void()>& turn);
  Result<protocol::Location> Lookup(const std::string& key, const std::function<void()>& turn);

  // Answers to RECALL.
  bool obedient = true;

  transport::PayloadTarget OnMessage(uint64_t id, ByteSpan body, uint64_t payload) override;
  void OnMessageEnd(uint64_t, std::optional<uint64_t>) override {}
  void OnClosed(const Status&) override {}

 private:
  struct Sent final : transport::Completion {
    void OnComplete(const Status&) override {}
  };
  void OnComplete(const Status&) override { --in_flight_; }  // of WRITE and COMMIT
  void Send(ByteSpan body);
  void WriteAndCommit();
  void OnLeased(const protocol::LeaseReply& reply);
  void OnPutReply(const protocol::PutReply& reply);

  Server& server_;
  History& history_;
  Counts& counts_;
  std::vector<std::byte> buffer_;
  std::unique_ptr<transport::LocalRegion> region_;
  std::unique_ptr<transport::Connection> connection_;
  uint64_t id_ = 0;
  std::vector<Extent> stock_;
  std::optional<Put> put_;
  std::optional<Put> resolving_;
  std::optional<protocol::Location> location_;
  bool waiting_ = false;  // for an answer
  int in_flight_ = 0;
  Sent sent_;
};

}  // namespace simm::sim
