// Pulls between the data servers of a simulated cluster.
#include "tests/sim/cluster_pulls.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "tests/sim/cluster_world.h"

namespace simm::sim {

using namespace std::chrono_literals;

namespace {
constexpr size_t kPulls = 2;  // at once
constexpr int kMovesPerStep = 2;
}  // namespace

Fiber::Fiber(std::function<void(Fiber&)> body)
    : thread_([this, body = std::move(body)] {
        go_.acquire();
        body(*this);
        over_ = true;
        back_.release();
      }) {}

Fiber::~Fiber() {
  SIMM_CHECK(over_, "a fiber ends before its body");
  thread_.join();
}

bool Fiber::Resume() {
  if (over_) return false;
  go_.release();
  back_.acquire();
  return !over_;
}

void Fiber::Yield() {
  back_.release();
  go_.acquire();
}

Puller::Puller(World& world, Node& node, dataserver::Pool& pool)
    : world_(world), node_(node), pace_(1 + world.random.Below(8)), migrator_(pool, Options()) {}

Puller::~Puller() {
  ending_ = true;
  for (Pull& pull : pulls_) {
    running_ = &pull;
    while (pull.fiber->Resume()) {
    }
  }
  world_.counts.pulled += migrator_.Entries(dataserver::PullOutcome::kPulled);
}

dataserver::Migrator::Options Puller::Options() {
  dataserver::Migrator::Options options;
  options.threads = 0;
  options.connect = [this](const ServerRecord& source, const MapVersion&) {
    return Connect(source);
  };
  options.on_pulled = [this] { node_.TalkSoon(); };
  options.gives_up = [this] {
    Pull& self = *running_;
    self.fiber->Yield();
    return ending_ || self.given_up;
  };
  return options;
}

Result<std::unique_ptr<transport::Connection>> Puller::Connect(const ServerRecord& record) {
  Node* const source = ending_ ? nullptr : world_.Find(record);
  const auto session = source ? source->Shake(node_.place, record.boot_id) : std::nullopt;
  if (!session) return Status(Code::kUnavailable, "the source is not there");
  auto connection = world_.tcp.Connect(source->name, {*session, source->pool().incarnation()}, 1s);
  if (!connection.ok()) return connection.status();
  running_->source = source->place;
  return std::unique_ptr<transport::Connection>(
      std::make_unique<RegisteringConnection>(world_.tcp, *std::move(connection)));
}

std::vector<uint32_t> Puller::Pulled(const RouteTable& table) const {
  return world_.mistakes.claim_pulled ? WithSource(table) : migrator_.Pulled(table);
}

std::vector<uint32_t> Puller::WithSource(const RouteTable& table) const {
  std::vector<uint32_t> shards;
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    for (const ShardOwner& owner : table.Owners(shard)) {
      if (owner.server == node_.self.load() && owner.source != kNoServer) shards.push_back(shard);
    }
  }
  return shards;
}

void Puller::Step() {
  if (world_.mistakes.claim_pulled) return;
  bool waits = migrator_.NextDue() <= world_.Now();
  for (Pull& pull : pulls_) {
    if (pull.busy) {
      Move(pull);
    } else if (std::exchange(waits, false)) {
      pull.last_moved = world_.Now();
      pull.busy = true;
      Move(pull);
    }
  }
  if (!waits || pulls_.size() == kPulls) return;
  Pull& pull = pulls_.emplace_back();
  pull.fiber = std::make_unique<Fiber>([this, &pull](Fiber& fiber) {
    while (!ending_) {
      migrator_.PullNext(world_.clock);
      pull.busy = pull.given_up = false;
      pull.source = 0;
      if (!ending_) fiber.Yield();
    }
  });
}

bool Puller::idle() const {
  return std::none_of(pulls_.begin(), pulls_.end(), [](const Pull& pull) { return pull.busy; });
}

// All that is here counts as older than what the sources have.
void Puller::ForgetWhatIsNewer() {
  node_.pool().SetPulling({});
  node_.pool().SetPulling(WithSource(*node_.feed.held()));
}

// Answers that do not come through are waited for, for a while.
void Puller::Move(Pull& pull) {
  if (pull.source == 0 || world_.Reaches(pull.source, node_.place)) pull.last_moved = world_.Now();
  pull.given_up = world_.Now() - pull.last_moved > limits::kPullStalled;
  if (pull.last_moved != world_.Now() && !pull.given_up) return;
  if (!world_.random.OneIn(pace_ * world_.pull_pace)) return;
  running_ = &pull;
  for (int i = 0; i < kMovesPerStep && pull.busy; ++i) {
    if (world_.mistakes.pull_overwrites) ForgetWhatIsNewer();
    pull.fiber->Resume();
  }
}

}  // namespace simm::sim
