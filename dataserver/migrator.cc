#include "dataserver/migrator.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/routing/key_hash.h"
#include "dataserver/pull_lane.h"

namespace simm::dataserver {
namespace {

constexpr int kPullNice = 10;

protocol::MapStamp StampOf(const RouteTable& table) {
  return {table.version().term, table.version().epoch};
}

bool IsGivenUp(PullOutcome outcome) {
  return outcome == PullOutcome::kNoRoom || outcome == PullOutcome::kDamaged;
}

}  // namespace

std::string_view PullOutcomeName(PullOutcome outcome) {
  constexpr std::array<std::string_view, kPullOutcomes> kNames = {"pulled", "exists",  "removed",
                                                                  "gone",   "no_room", "damaged"};
  return kNames[static_cast<size_t>(outcome)];
}

// Of one job. What is given up counts when the job has ended well: another try may bring it.
struct Migrator::Tally {
  std::array<uint64_t, kPullOutcomes> entries{};
  uint64_t bytes_pulled = 0;
  uint64_t bytes_given_up = 0;
  Instant rests_until{};
};

Migrator::Migrator(Pool& pool, Options options)
    : pool_(pool), options_(std::move(options)), throttle_(options_.bytes_per_s) {
  for (size_t i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { Run(); });
}

Migrator::~Migrator() { Stop(); }

void Migrator::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_.store(true);
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Migrator::OnTable(std::shared_ptr<const RouteTable> table, ServerId self) {
  MutexLock lock(mutex_);
  plan_.OnTable(std::move(table), self);
  pool_.SetPulling(plan_.pulling());
  changed_.NotifyAll();
}

std::vector<uint32_t> Migrator::Pulled(const RouteTable& table) const {
  MutexLock lock(mutex_);
  std::vector<uint32_t> pulled = plan_.Pulled(table);
  if (pulled.size() > limits::kMaxPulledShards) pulled.resize(limits::kMaxPulledShards);
  return pulled;
}

rpc::MigrationProgress Migrator::Progress() const {
  rpc::MigrationProgress progress;
  progress.entries_pulled = Entries(PullOutcome::kPulled);
  progress.bytes_pulled = bytes_pulled_.load();
  progress.entries_given_up = Entries(PullOutcome::kNoRoom) + Entries(PullOutcome::kDamaged);
  progress.bytes_given_up = bytes_given_up_.load();
  MutexLock lock(mutex_);
  progress.shards_to_pull = plan_.shards_left();
  if (plan_.leaving().empty()) return progress;
  const ShardLoad left = pool_.LoadOf(plan_.leaving());
  progress.entries_left = left.entries;
  progress.bytes_left = left.value_bytes;
  return progress;
}

void Migrator::Run() {
  // Readers on this host go first. Of this thread only, and always allowed.
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kPullNice);
  const Clock& clock = MonotonicClock::Get();
  while (true) {
    std::optional<PullJob> job;
    {
      MutexLock lock(mutex_);
      while (!stopping_.load() && !(job = plan_.Next(clock.Now()))) {
        const Instant due = plan_.NextDue();
        if (due == kForever) {
          changed_.Wait(mutex_);
        } else {
          changed_.WaitFor(mutex_, std::max<Duration>(due - clock.Now(), Duration(1)));
        }
      }
      if (stopping_.load()) return;
    }
    Pull(*job, clock);
  }
}

bool Migrator::PullNext(const Clock& clock) {
  std::optional<PullJob> job;
  {
    MutexLock lock(mutex_);
    job = plan_.Next(clock.Now());
  }
  if (job) Pull(*job, clock);
  return job.has_value();
}

Instant Migrator::NextDue() const {
  MutexLock lock(mutex_);
  return plan_.NextDue();
}

void Migrator::Pull(const PullJob& job, const Clock& clock) {
  const Instant begin = clock.Now();
  Tally tally;
  const Status status = RunJob(job, &tally);
  const Duration took = clock.Now() - begin;
  nanos_.fetch_add(took.count(), std::memory_order_relaxed);
  if (status.ok()) {
    for (const PullOutcome outcome : {PullOutcome::kNoRoom, PullOutcome::kDamaged}) {
      const auto at = static_cast<size_t>(outcome);
      entries_[at].fetch_add(tally.entries[at], std::memory_order_relaxed);
    }
    bytes_given_up_.fetch_add(tally.bytes_given_up, std::memory_order_relaxed);
  }
  {
    MutexLock lock(mutex_);
    if (status.ok()) {
      plan_.Done(job);
    } else if (status.code() == Code::kBusy) {
      plan_.NotReady(job, clock.Now());
    } else {
      plan_.Failed(job, clock.Now());
    }
    changed_.NotifyAll();
  }
  Report(job, status, tally, took);
  if (status.ok()) options_.on_pulled();
}

void Migrator::Report(const PullJob& job, const Status& status, const Tally& tally, Duration took) {
  static LogLimiter limiter(std::chrono::seconds(5));
  if (status.ok()) {
    const auto of = [&](PullOutcome outcome) {
      return tally.entries[static_cast<size_t>(outcome)];
    };
    SIMM_LOG_INFO(
        "pulled {} shards from {}: {} entries ({}) in {:.2f} s, {} were here, {} were gone, {} "
        "given up ({})",
        job.shard_count, job.source.name, of(PullOutcome::kPulled), FormatSize(tally.bytes_pulled),
        ToSeconds(took), of(PullOutcome::kExists) + of(PullOutcome::kRemoved),
        of(PullOutcome::kGone), of(PullOutcome::kNoRoom) + of(PullOutcome::kDamaged),
        FormatSize(tally.bytes_given_up));
    return;
  }
  if (status.code() == Code::kBusy || stopping_.load()) return;
  failures_.fetch_add(1, std::memory_order_relaxed);
  if (limiter.Allow(MonotonicClock::Get().Now()) >= 0) {
    SIMM_LOG_WARN("pulling {} shards from {}: {}; trying again", job.shard_count, job.source.name,
                  status.ToString());
  }
}

void Migrator::Count(PullOutcome outcome, uint64_t value_bytes, Tally* tally) {
  ++tally->entries[static_cast<size_t>(outcome)];
  if (IsGivenUp(outcome)) {
    tally->bytes_given_up += value_bytes;
    return;
  }
  entries_[static_cast<size_t>(outcome)].fetch_add(1, std::memory_order_relaxed);
  if (outcome != PullOutcome::kPulled) return;
  tally->bytes_pulled += value_bytes;
  bytes_pulled_.fetch_add(value_bytes, std::memory_order_relaxed);
}

// kBusy: the source is not ready.
Status Migrator::RunJob(const PullJob& job, Tally* tally) {
  auto connection = options_.connect(job.source, job.table->version());
  if (!connection.ok()) return connection.status();
  PullLane lane(pool_, std::move(*connection),
                [this] { return stopping_.load() || options_.gives_up(); });
  std::unordered_map<NamespaceId, uint64_t> seeds;
  for (const auto& [id, name] : job.table->contents().namespaces) seeds[id] = NamespaceSeed(name);
  protocol::ListRequest request;
  request.destination = job.self;
  request.map = StampOf(*job.table);
  protocol::ListReply reply;
  std::vector<EntryFacts> page;
  do {
    SIMM_RETURN_IF_ERROR(lane.List(request, &reply));
    if (reply.code != Code::kOk)
      return Status(Code::kBusy, "the source is not ready: " + std::string(CodeName(reply.code)));
    page.clear();
    for (const protocol::ListedEntry& listed : reply.entries) {
      const auto seed = seeds.find(listed.namespace_id);
      if (seed == seeds.end()) continue;  // of another's making; a map has all namespaces
      const Hash128 hash = HashKey(listed.key, seed->second);
      if (!job.shards[ShardOf(hash)]) continue;
      page.push_back({.hash = hash,
                      .ns = listed.namespace_id,
                      .key = std::string(listed.key),
                      .value_bytes = listed.value_bytes,
                      .checksum = listed.checksum,
                      .ttl_ms = listed.ttl_ms,
                      .age = std::chrono::milliseconds(listed.age_ms)});
    }
    SIMM_RETURN_IF_ERROR(PullPage(job, page, lane, tally));
    request.cursor = reply.cursor;
  } while (!reply.done);
  return Status::Ok();
}

Status Migrator::PullPage(const PullJob& job, std::span<const EntryFacts> page, PullLane& lane,
                          Tally* tally) {
  std::vector<EntryFacts> batch;
  uint64_t value_bytes = 0;
  // At the source a batch is served in one go: at most what 1/4 ms of the bandwidth carries, so
  // that clients who read there do not wait for long.
  const uint64_t batch_bytes =
      options_.bytes_per_s == 0
          ? limits::kPullBatchBytes
          : std::clamp<uint64_t>(options_.bytes_per_s / 4096, 64 << 10, limits::kPullBatchBytes);
  size_t message_bytes = protocol::kKeysRequestHeadBytes;
  const auto fetch = [&] {
    const Status fetched = batch.empty() ? Status::Ok() : FetchBatch(job, batch, lane, tally);
    batch.clear();
    value_bytes = 0;
    message_bytes = protocol::kKeysRequestHeadBytes;
    return fetched;
  };
  for (const EntryFacts& entry : page) {
    switch (pool_.WantsPulled(entry)) {
      case Code::kOk:
        break;
      case Code::kExists:
        Count(PullOutcome::kExists, entry.value_bytes, tally);
        continue;
      case Code::kRemoved:
        Count(PullOutcome::kRemoved, entry.value_bytes, tally);
        continue;
      default:  // the shard has no source any more
        continue;
    }
    const size_t need = protocol::KeyEntryBytes(entry.key.size());
    if (!batch.empty() && (entry.ns != batch[0].ns || batch.size() == limits::kMaxKeysPerMessage ||
                           message_bytes + need > limits::kMaxMessageBytes ||
                           value_bytes + entry.value_bytes > batch_bytes)) {
      SIMM_RETURN_IF_ERROR(fetch());
    }
    if (!pool_.HasRoomFor(entry, value_bytes)) {
      Count(PullOutcome::kNoRoom, entry.value_bytes, tally);
      continue;
    }
    batch.push_back(entry);
    value_bytes += entry.value_bytes;
    message_bytes += need;
  }
  return fetch();
}

Status Migrator::FetchBatch(const PullJob& job, std::span<const EntryFacts> batch, PullLane& lane,
                            Tally* tally) {
  uint64_t bytes = 0;
  for (const EntryFacts& entry : batch) bytes += entry.value_bytes;
  const Clock& clock = MonotonicClock::Get();
  Duration wait;
  {
    MutexLock lock(mutex_);
    const Instant now = clock.Now();
    wait = std::max<Duration>(throttle_.Take(bytes, now), tally->rests_until - now);
  }
  SIMM_RETURN_IF_ERROR(Wait(wait, lane));
  const Instant begin = clock.Now();
  std::vector<PullLane::Fetched> fetched;
  SIMM_RETURN_IF_ERROR(lane.Fetch(batch, StampOf(*job.table), &fetched));
  for (size_t i = 0; i < batch.size(); ++i) {
    EntryFacts entry = batch[i];
    Code code = fetched[i].code;
    if (code == Code::kOk) {
      entry.checksum = fetched[i].checksum;
      code = pool_.CommitPulled(*fetched[i].grant, entry, fetched[i].hints);
    }
    switch (code) {
      case Code::kOk:
        Count(PullOutcome::kPulled, entry.value_bytes, tally);
        break;
      case Code::kExists:
        Count(PullOutcome::kExists, entry.value_bytes, tally);
        break;
      case Code::kRemoved:
        Count(PullOutcome::kRemoved, entry.value_bytes, tally);
        break;
      case Code::kBusy:
      case Code::kTooLarge:
        Count(PullOutcome::kNoRoom, entry.value_bytes, tally);
        break;
      case Code::kCorrupt:
        Count(PullOutcome::kDamaged, entry.value_bytes, tally);
        break;
      default:
        Count(PullOutcome::kGone, entry.value_bytes, tally);
    }
  }
  const Instant end = clock.Now();
  if (options_.bytes_per_s != 0) tally->rests_until = end + RestAfter(end - begin);
  return Status::Ok();
}

// Says a word now and then: the source's session must not end.
Status Migrator::Wait(Duration time, PullLane& lane) {
  const Clock& clock = MonotonicClock::Get();
  const Instant end = clock.Now() + time;
  while (clock.Now() < end) {
    {
      MutexLock lock(mutex_);
      const Instant slice = std::min(end, clock.Now() + limits::kKeepalive);
      while (!stopping_.load() && clock.Now() < slice)
        changed_.WaitFor(mutex_, std::max<Duration>(slice - clock.Now(), Duration(1)));
      if (stopping_.load()) return Status(Code::kUnavailable, "stopping");
    }
    if (clock.Now() < end) SIMM_RETURN_IF_ERROR(lane.Ping());
  }
  return Status::Ok();
}

}  // namespace simm::dataserver
