// The one-sided put (DESIGN 6): several clients lease, write, commit, return, lose lanes, ask what
// became of their puts, ignore recalls and die between any two steps, against real DataSessions and
// a real Pool, while readers read with checksums off and the pool evicts. Under one seed, on a fake
// clock, on the simulated network and on the chaos one, which also places writes late.
//
// SIMM_SIM_SEED=N replays one seed; SIMM_SIM_SEEDS=N sets how many are tried.

#include <cstdlib>

#include "common/transport/chaos/chaos_transport.h"
#include "common/transport/sim/sim_transport.h"
#include "tests/sim/one_sided_world.h"

namespace simm::sim {
namespace {

using namespace std::chrono_literals;
using protocol::ValidatedRead;

constexpr int kClients = 3;
constexpr size_t kLanes = 3;
constexpr int kKeys = 5;
constexpr int kTurns = 900;

uint64_t EnvOr(const char* name, uint64_t fallback) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : fallback;
}

std::string KeyName(uint64_t i) { return "key-" + std::to_string(i); }

// A session with a few lanes. Dies and comes back as another one.
struct Client {
  uint64_t session = 0;
  std::vector<std::unique_ptr<Lane>> lanes;
};

class Simulation {
 public:
  Simulation(uint64_t seed, transport::Transport& transport)
      : random_(seed),
        transport_(transport),
        calm_(seed % 3 == 0),
        verify_(seed % 2 == 0),
        server_(transport, verify_),
        clients_(kClients),
        buffer_(kValueSizes[2]) {
    scratch_region_ = *transport.Register(
        {reinterpret_cast<std::byte*>(&scratch_), sizeof scratch_}, transport::kLocalOnly);
    buffer_region_ = *transport.Register(buffer_, transport::kLocalOnly);
  }

  Counts Run() {
    for (int i = 0; i < kTurns && !testing::Test::HasFailure(); ++i) {
      Turn();
      if (random_.OneIn(12)) ReadOne(KeyName(random_.Below(kKeys)), false);
      if (random_.OneIn(100)) server_.CheckBooks();
    }
    for (Client& client : clients_) client.lanes.clear();
    given_up_.clear();
    if (calm_) ReadAcknowledged();
    reader_.reset();
    server_.Rest(limits::kSessionTimeout + 2s);
    const auto usage = server_.pool->Usage();
    EXPECT_EQ(usage.granted_bytes, 0u);
    EXPECT_EQ(usage.pinned_bytes, 0u);
    EXPECT_EQ(usage.limbo_bytes, 0u);
    EXPECT_EQ(server_.state->pins.size(), 0u);
    EXPECT_EQ(server_.state->lanes.size(), 0u);
    EXPECT_EQ(server_.sessions->size(), 0u);
    server_.CheckBooks();
    return counts_;
  }

 private:
  // Somebody does something.
  void Turn() {
    if (quiet_) return server_.Step(random_);
    switch (random_.Below(8)) {
      case 0:
        Act(clients_[random_.Below(clients_.size())]);
        break;
      case 1:
        if (!calm_) Disturb();
        break;
      default:
        for (int i = 0; i < 4; ++i) server_.Step(random_);
        for (Client& client : clients_) Move(client);
    }
    server_.clock.Advance(random_.OneIn(150) ? Duration(random_.Below(3) * 1s)
                                             : Duration(random_.Below(2'000'000)));
  }

  void Move(Client& client) {
    for (auto& lane : client.lanes) {
      for (int i = 0; i < 3; ++i) lane->Progress();
    }
    std::erase_if(client.lanes, [&](const auto& lane) {
      if (!lane->closed()) return false;
      if (lane->put() && lane->put()->posted && lane->id() != 0) {
        lost_.push_back({client.session, lane->id(), *lane->put()});
      }
      return true;
    });
  }

  Lane& Open(Client& client) {
    if (client.session == 0 || !server_.sessions->IsOpen(client.session)) {
      client.lanes.clear();
      client.session = server_.sessions->Open("client");
    }
    client.lanes.push_back(
        std::make_unique<Lane>(transport_, server_, history_, counts_, client.session));
    client.lanes.back()->obedient = !random_.OneIn(4);
    return *client.lanes.back();
  }

  void Act(Client& client) {
    if (random_.OneIn(40)) {  // dies
      ++counts_.crashes;
      client.lanes.clear();
      client.session = 0;
      return;
    }
    if (client.lanes.size() < kLanes && (client.lanes.empty() || random_.OneIn(4))) Open(client);
    const size_t at = random_.Below(client.lanes.size());
    Lane& lane = *client.lanes[at];
    if (lane.closed()) return;
    if (lane.put() && lane.put()->posted && lane.id() != 0 && random_.OneIn(6)) {
      GiveUp(client, at);
    } else if (lane.waiting()) {
      lane.Ping();
    } else if (random_.OneIn(8)) {
      lane.ReturnIdle(0);
    } else if (!ResolveLost(client, lane)) {
      Lane::Put put{.key = KeyName(random_.Below(kKeys)),
                    .version = ++versions_,
                    .size = kValueSizes[random_.Below(3)],
                    .replace = random_.OneIn(3),
                    .damaged = random_.OneIn(20)};
      lane.BeginPut(std::move(put), random_);
    }
  }

  // A lane in the middle of a put has taken too long: another one asks what became of it, while it
  // may go on writing until the server has cut it off.
  void GiveUp(Client& client, size_t at) {
    const uint64_t id = client.lanes[at]->id();
    const Lane::Put put = *client.lanes[at]->put();
    Lane* other = nullptr;
    for (auto& lane : client.lanes) {
      if (lane.get() != client.lanes[at].get() && !lane->waiting() && !lane->closed()) {
        other = lane.get();
      }
    }
    if (other == nullptr) other = &Open(client);
    if (random_.OneIn(2)) {
      given_up_.push_back(std::move(client.lanes[at]));
      client.lanes.erase(client.lanes.begin() + static_cast<ptrdiff_t>(at));
      if (random_.OneIn(2)) given_up_.clear();
    }
    if (!other->closed()) other->Resolve(id, put);
  }

  bool ResolveLost(Client& client, Lane& lane) {
    for (size_t i = 0; i < lost_.size(); ++i) {
      if (lost_[i].session != client.session) continue;
      lane.Resolve(lost_[i].lane, lost_[i].put);
      lost_.erase(lost_.begin() + static_cast<ptrdiff_t>(i));
      return true;
    }
    return false;
  }

  // Others put, remove and evict.
  void Disturb() {
    const std::string key = KeyName(random_.Below(kKeys));
    switch (random_.Below(8)) {
      case 0:
        server_.pool->Remove(HashOfKey(key), 0, key);
        break;
      case 1:
        server_.pool->EvictSome();
        break;
      default: {
        const std::string filler = "filler-" + std::to_string(++versions_);
        const uint64_t size = 5'000 + random_.Below(60'000);
        (void)dataserver::Put(*server_.pool, filler, size);
      }
    }
  }

  // ---- reading

  bool Reader() {
    if (reader_ != nullptr && !reader_->closed()) return true;
    reader_ = std::make_unique<Lane>(transport_, server_, history_, counts_,
                                     server_.sessions->Open("reader"));
    reader_->Ping();  // the first message carries the session
    return true;
  }
  Status Read(const transport::RemoteRegion& region, uint64_t offset,
              std::vector<transport::MutableSegment> local) {
    return reader_->Read(region, offset, std::move(local), [this] {
      if (random_.OneIn(3)) Turn();
    });
  }
  transport::MutableSegment Scratch(void* at, size_t size) {
    return {static_cast<std::byte*>(at), size, scratch_region_.get()};
  }

  // kOk of the step, or the lane is lost.
  Status StepRead(ValidatedRead& read, const std::string& key, ValidatedRead::Next* next) {
    switch (*next) {
      case ValidatedRead::Next::kReadBucket:
        SIMM_RETURN_IF_ERROR(Read(server_.index, read.offset(),
                                  {Scratch(&scratch_.bucket, sizeof scratch_.bucket)}));
        break;
      case ValidatedRead::Next::kReadSlot:
        SIMM_RETURN_IF_ERROR(
            Read(server_.index, read.offset(), {Scratch(&scratch_.slot, sizeof scratch_.slot)}));
        break;
      case ValidatedRead::Next::kReadExtent:
        SIMM_RETURN_IF_ERROR(Read(server_.data, read.offset(),
                                  {Scratch(scratch_.head, read.head_bytes()),
                                   {buffer_.data(), read.value_bytes(), buffer_region_.get()}}));
        break;
      case ValidatedRead::Next::kAskServer: {
        ++counts_.asked;
        const auto location = reader_->Lookup(key, [this] { Turn(); });
        if (!location.ok()) return location.status();
        *next = read.OnLocation(*location);
        return Status::Ok();
      }
      case ValidatedRead::Next::kDone:
        return Status::Ok();
    }
    *next = read.OnRead();
    return Status::Ok();
  }

  void ReadOne(const std::string& key, bool must_hit) {
    Reader();
    const auto visible = history_.Visible(key);
    const auto& g = server_.pool->geometry();
    ValidatedRead read({g.bucket_count, g.buckets_offset, g.index_bytes, g.data_bytes},
                       {.hash = HashOfKey(key),
                        .namespace_id = 0,
                        .key = key,
                        .buffer = buffer_,
                        .allow_shorter = true,
                        .verify = false},
                       scratch_);
    std::optional<protocol::CachedLocation> cached;
    if (const auto it = cache_.find(key); it != cache_.end() && random_.OneIn(2)) {
      cached = it->second;
    }
    for (auto next = read.Start(cached); next != ValidatedRead::Next::kDone;) {
      if (!StepRead(read, key, &next).ok()) return;
    }
    counts_.retries += static_cast<int>(read.retries());
    if (read.result() != Code::kOk) {
      ++counts_.misses;
      EXPECT_FALSE(must_hit) << key << " was acknowledged and is gone: " << CodeName(read.result());
      return;
    }
    ++counts_.hits;
    cache_[key] = read.location();
    const ByteSpan bytes = ByteSpan(buffer_).first(read.value_bytes());
    bool right = false;
    // Those posted while it read count too.
    for (const auto& puts : {visible, history_.Visible(key)}) {
      for (const auto& put : puts) {
        right |= put.size == bytes.size() && dataserver::IsValue(bytes, key, put.version);
      }
    }
    counts_.wrong += right ? 0 : 1;
  }

  // Without evictions and removals, what was acknowledged is there.
  void ReadAcknowledged() {
    for (const uint64_t evictions : server_.pool->Counters().evictions) {
      if (evictions != 0) return;
    }
    server_.Rest(limits::kDataTick);  // the last of the clients' messages
    quiet_ = true;                    // a read that meets a replacement may end as a miss
    for (const std::string& key : history_.acknowledged()) ReadOne(key, true);
  }

  struct Lost {
    uint64_t session, lane;
    Lane::Put put;
  };
  Random random_;
  transport::Transport& transport_;
  const bool calm_, verify_;
  History history_;
  Counts counts_;
  Server server_;
  std::vector<Client> clients_;
  std::vector<std::unique_ptr<Lane>> given_up_;  // still open at the client, nobody listens
  std::unique_ptr<Lane> reader_;
  std::vector<Lost> lost_;
  uint64_t versions_ = 0;
  bool quiet_ = false;
  protocol::ReadScratch scratch_;
  std::vector<std::byte> buffer_;
  std::unique_ptr<transport::LocalRegion> scratch_region_, buffer_region_;
  std::map<std::string, protocol::CachedLocation> cache_;
};

template <typename Network, typename Transport>
void RunSeeds(const char* which, uint64_t count) {
  const uint64_t only = EnvOr("SIMM_SIM_SEED", 0);
  const uint64_t seeds = only != 0 ? 1 : EnvOr("SIMM_SIM_SEEDS", count);
  Counts total;
  for (uint64_t i = 0; i < seeds; ++i) {
    const uint64_t seed = only != 0 ? only : i + 1;
    Network network(seed + 1);
    Transport transport(network);
    const Counts counts = Simulation(seed, transport).Run();
    EXPECT_EQ(counts.wrong, 0);
    ASSERT_FALSE(testing::Test::HasFailure())
        << "replay with: SIMM_SIM_SEED=" << seed
        << " build/tests/one_sided_put_sim_test --gtest_filter=*" << which;
    total.Add(counts);
  }
  std::printf(
      "%s, %llu seeds: %d puts, %d exists, %d lease gone, %d corrupt, %d crashes, %d resolves (%d "
      "ok), %d recalls, %d returns, %d hits, %d misses, %d retries, %d questions\n",
      which, static_cast<unsigned long long>(seeds), total.puts, total.exists, total.gone,
      total.corrupt, total.crashes, total.resolves, total.resolved_ok, total.recalls, total.returns,
      total.hits, total.misses, total.retries, total.asked);
  if (seeds < 200) return;
  EXPECT_GT(total.puts, 1000);
  EXPECT_GT(total.hits, 1000);
  EXPECT_GT(total.gone, 20);
  EXPECT_GT(total.resolved_ok, 20);
  EXPECT_GT(total.corrupt, 100);
  EXPECT_GT(total.recalls, 20);
  EXPECT_GT(total.retries, 50);
}

TEST(OneSidedPutSim, RightBytesOrAMissOnTheSimulatedNetwork) {
  RunSeeds<transport::SimNetwork, transport::SimTransport>("SimulatedNetwork", 1000);
}

TEST(OneSidedPutSim, RightBytesOrAMissOnTheChaosNetwork) {
  RunSeeds<transport::ChaosNetwork, transport::ChaosTransport>("ChaosNetwork", 500);
}

}  // namespace
}  // namespace simm::sim
