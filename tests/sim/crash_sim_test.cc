// A server killed at any instruction, and its successor. A child process works on a pool in files
// under one seed; at a chosen call it is single-stepped for a chosen number of instructions, then
// killed; the next one takes over, is killed too, within its recovery as well; the last looks at
// all. What was acknowledged must be there with the right bytes, what was under way there or not,
// each byte accounted for. SIMM_SIM_SEED replays one seed, SIMM_SIM_SEEDS sets how many are run.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "dataserver/extent_head.h"
#include "dataserver/lease_records.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/pool_folder.h"
#include "tests/support/seed_report.h"

namespace simm::dataserver {
namespace {

constexpr size_t kKeys = 24;
constexpr size_t kGrants = 8;
constexpr int kNoStop = 1 << 30;

enum class Doing : uint32_t { kNothing, kPut, kReplace, kRemove, kGrant, kReturn };

// What has been acknowledged, in memory that outlives the child.
struct Model {
  uint64_t version[kKeys] = {};  // 0: not there
  uint64_t versions = 0;
  Doing doing = Doing::kNothing;
  uint32_t key = 0;  // or the place in `granted`
  uint64_t doing_version = 0;
  LeasedExtent granted[kGrants] = {};  // generation 0: none
  uint32_t number[kGrants] = {};       // of its record
  bool created = false;                // the files were complete once
  char wrong[160] = {};
};

class Plan {
 public:
  explicit Plan(uint64_t seed) : random_(seed) {
    tight = random_.OneIn(3);
    mean = uint64_t{512} << random_.Below(4);
    largest = tight ? 60'000 : 3000;
    rounds = 1 + static_cast<int>(random_.Below(3));
  }
  uint64_t BytesOf(uint64_t version) const { return version * 2654435761 % largest; }

  bool tight;  // values are evicted
  uint64_t mean;
  uint64_t largest;
  int rounds;
  Random random_;
};

std::string KeyName(uint32_t key) { return "key" + std::to_string(key); }

// A server's life, until it is killed, or the last one's look at everything.
class Life {
 public:
  Life(const Plan& plan, const PoolFolder& folder, Model& model, uint64_t seed)
      : plan_(plan), folder_(folder), model_(model), random_(seed) {}

  // In the child: stops itself at the call of this number and goes on until it is killed.
  void RunChild(int stop_at) {
    stop_at_ = stop_at;
    goes_on_ = true;
    Begin();
    for (int step = 0; step < 4000; ++step) Step();
  }
  // In the test: empty when all was right.
  std::string Look() {
    Begin();
    if (Failed()) return model_.wrong;
    CheckGenerations();
    std::vector<LeasedExtent> left;
    for (const LeasedExtent& extent : adopted_) left.push_back(extent);
    pool_->AbandonBlank(left);
    const PoolUsage usage = pool_->Usage();
    if (usage.granted_bytes + usage.limbo_bytes + usage.pinned_bytes != 0)
      Wrong("bytes are left behind");
    if (!pool_->Audit().ok()) Wrong("audit at the end: " + pool_->Audit().message());
    return model_.wrong;
  }

 private:
  bool Failed() const { return model_.wrong[0] != '\0'; }
  void Wrong(const std::string& what) {
    if (!Failed()) std::snprintf(model_.wrong, sizeof model_.wrong, "%s", what.c_str());
  }
  // Before each call whose middle is of interest.
  void Here() {
    if (stop_at_-- == 0) raise(SIGSTOP);
  }

  void Begin() {
    Here();
    auto pool = Pool::Create({.memory_bytes = 1 << 20,
                              .mean_value_bytes = plan_.mean,
                              .path = folder_.pool(),
                              .prefault = false,
                              .boot_clock = &clock_},
                             clock_);
    if (!pool.ok()) return Wrong("no pool: " + pool.status().ToString());
    pool_ = std::move(*pool);
    const PoolRecovery& recovery = pool_->recovery();
    if (model_.created && !recovery.warm) Wrong("cold: " + recovery.cold_because);
    model_.created = true;
    for (const DropCause cause : {DropCause::kDamaged, DropCause::kMisplaced, DropCause::kDuplicate,
                                  DropCause::kOverlap, DropCause::kGranted}) {
      if (recovery.dropped[static_cast<size_t>(cause)] != 0)
        Wrong("dropped: " + std::string(DropCauseName(cause)));
    }
    if (recovery.bad_records != 0) Wrong("a bad lease record");
    if (recovery.dropped[0] > 1) Wrong("more than one slot was being written");
    if (!pool_->Audit().ok()) Wrong("audit: " + pool_->Audit().message());
    for (const AdoptedGrant& grant : pool_->TakeAdopted()) adopted_.push_back(grant.extent);
    for (uint32_t key = 0; key < kKeys; ++key) CheckKey(key);
    CheckGrants();
    if (goes_on_) AdoptGrants();
    model_.doing = Doing::kNothing;
    records_.emplace(pool_->lease_memory());
  }

  // The one before had them; what was under way is settled now.
  void AdoptGrants() {
    std::vector<LeasedExtent> mine;
    for (size_t i = 0; i < kGrants; ++i) {
      LeasedExtent& known = model_.granted[i];
      const auto it = std::find_if(adopted_.begin(), adopted_.end(), [&](const LeasedExtent& e) {
        return e.generation == known.generation;
      });
      if (it == adopted_.end()) {
        known.generation = 0;
        continue;
      }
      known = *it;  // what was told may have been cut short by the kill
      mine.push_back(*it);
      adopted_.erase(it);
    }
    // Of a grant that nobody was told of only the record is left: as for one who has ended.
    const auto area = pool_->lease_memory();
    for (const LeasedExtent& extent : adopted_) {
      for (uint32_t n = 0; n < area.size() / sizeof(protocol::LeaseRecord); ++n) {
        if (reinterpret_cast<protocol::LeaseRecord*>(area.data())[n].generation ==
            extent.generation)
          LeaseRecords::Discard(area, n);
      }
    }
    pool_->AbandonBlank(adopted_);
    adopted_ = std::move(mine);
  }

  void CheckKey(uint32_t key) {
    uint64_t& known = model_.version[key];
    const bool under_way =
        model_.key == key && model_.doing >= Doing::kPut && model_.doing <= Doing::kRemove;
    const std::string name = KeyName(key);
    PinnedValue pinned;
    if (pool_->Acquire(HashOf(name), 0, name, &pinned) != Code::kOk) {
      if (known != 0 && !under_way && !plan_.tight) Wrong(name + " is lost");
      known = 0;
      return;
    }
    const auto is = [&](uint64_t version) {
      return version != 0 && pinned.value.size() == plan_.BytesOf(version) &&
             IsValue(pinned.value, name, version) && Xxh3_64(pinned.value) == pinned.checksum;
    };
    if (under_way && is(model_.doing_version)) {
      known = model_.doing_version;
    } else if (!is(known)) {
      Wrong(name + " has bytes of no put of its");
    }
    pool_->Release(pinned);
  }
  // What was told to a writer is granted; nothing else is but what was being granted or returned.
  void CheckGrants() {
    size_t known = 0;
    for (uint32_t i = 0; i < kGrants; ++i) {
      if (model_.granted[i].generation == 0) continue;
      const bool there =
          std::any_of(adopted_.begin(), adopted_.end(), [&](const LeasedExtent& extent) {
            return extent.generation == model_.granted[i].generation &&
                   extent.offset == model_.granted[i].offset &&
                   extent.bytes == model_.granted[i].bytes;
          });
      known += there;
      const bool under_way = model_.doing >= Doing::kGrant && model_.key == i;
      if (!there && !under_way) Wrong("a grant is lost");
    }
    if (adopted_.size() > known + 1) Wrong("more is granted than was");
  }
  void CheckGenerations() {
    uint64_t last = 0;
    const ByteSpan index = pool_->index_memory();
    const auto& g = pool_->geometry();
    for (uint64_t at = g.buckets_offset; at < g.leases_offset; at += 64) {
      if (at < g.overflow_offset && (at - g.buckets_offset) % protocol::kBucketBytes == 0) continue;
      uint64_t word;
      std::memcpy(&word, index.data() + at, sizeof word);
      last = std::max(last, protocol::SlotWord{word}.generation());
    }
    for (const LeasedExtent& extent : adopted_) last = std::max(last, extent.generation);
    const auto grant = pool_->Allocate(HashOf("new"), 0, "new", 10);
    if (!grant.ok() || grant->generation <= last) return Wrong("a generation comes again");
    pool_->Abandon(*grant);
  }

  void Step() {
    const auto key = static_cast<uint32_t>(random_.Below(kKeys));
    const uint64_t dice = random_.Below(100);
    if (dice < 50) {
      PutSome(key);
    } else if (dice < 60) {
      RemoveSome(key);
    } else if (dice < 75) {
      GrantSome();
    } else if (dice < 90) {
      EndGrant();
    } else if (dice < 95) {
      CheckKey(key);
    } else {
      Here();
      pool_->EvictSome();
    }
    clock_.Advance(std::chrono::milliseconds(random_.Below(100)));
  }
  void Begin(Doing doing, uint32_t key, uint64_t version) {
    model_.doing_version = version;
    model_.key = key;
    model_.doing = doing;
  }
  void PutSome(uint32_t key) {
    const std::string name = KeyName(key);
    const uint64_t version = ++model_.versions;
    const bool replace = random_.OneIn(2);
    Here();
    auto grant = pool_->Allocate(HashOf(name), 0, name, plan_.BytesOf(version));
    if (!grant.ok()) return;
    FillValue(grant->value, name, version);
    const uint64_t checksum = Xxh3_64(grant->value);
    Begin(replace ? Doing::kReplace : Doing::kPut, key, version);
    Here();
    const Code code = pool_->Commit(
        *grant, HashOf(name), 0, name, replace ? PutMode::kReplace : PutMode::kIfAbsent, checksum,
        {.parent = {}, .depth = 0, .ttl_ms = random_.OneIn(4) ? 1'000'000u : 0u});
    if (code == Code::kOk) model_.version[key] = version;
    model_.doing = Doing::kNothing;
  }
  void RemoveSome(uint32_t key) {
    const std::string name = KeyName(key);
    Begin(Doing::kRemove, key, 0);
    Here();
    (void)pool_->Remove(HashOf(name), 0, name);
    model_.version[key] = 0;
    model_.doing = Doing::kNothing;
  }
  // As LeaseTable does: the record is there before the grant is told.
  void GrantSome() {
    uint32_t place = 0;
    while (place < kGrants && model_.granted[place].generation != 0) ++place;
    if (place == kGrants) return;
    const uint64_t version = ++model_.versions;
    Begin(Doing::kGrant, place, version);
    Here();
    const auto granted =
        pool_->GrantBlank(protocol::ExtentBytes(KeyName(0).size(), plan_.BytesOf(version)), 1);
    if (!granted.ok()) return;
    protocol::LeaseRecord record;
    record.generation = (*granted)[0].generation;
    record.offset = (*granted)[0].offset;
    record.bytes = (*granted)[0].bytes;
    Here();
    model_.number[place] = records_->Write(record);
    model_.granted[place] = (*granted)[0];
    model_.doing = Doing::kNothing;
  }
  void EndGrant() {
    uint32_t place = 0;
    while (place < kGrants && model_.granted[place].generation == 0) ++place;
    if (place == kGrants) return;
    Begin(Doing::kReturn, place, 0);
    const LeasedExtent extent = model_.granted[place];
    Here();
    // A record is known by its generation: its number is the one before's.
    const auto area = pool_->lease_memory();
    for (uint32_t n = 0; n < area.size() / sizeof(protocol::LeaseRecord); ++n) {
      if (reinterpret_cast<protocol::LeaseRecord*>(area.data())[n].generation == extent.generation)
        records_->Clear(n);
    }
    std::erase_if(adopted_,
                  [&](const LeasedExtent& e) { return e.generation == extent.generation; });
    Here();
    pool_->AbandonBlank({&extent, 1});
    model_.granted[place].generation = 0;
    model_.doing = Doing::kNothing;
  }

  const Plan& plan_;
  const PoolFolder& folder_;
  Model& model_;
  Random random_;
  FakeClock clock_;
  int stop_at_ = kNoStop;
  bool goes_on_ = false;
  std::unique_ptr<Pool> pool_;
  std::optional<LeaseRecords> records_;
  std::vector<LeasedExtent> adopted_;
};

// False: this system allows no tracing.
bool MayTrace() {
  const pid_t pid = fork();
  if (pid == 0) _exit(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 ? 0 : 1);
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Runs `child`, lets it stop itself, steps it, kills it.
void RunAndKill(const std::function<void()>& child, uint64_t steps, bool trace) {
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (trace) ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    child();
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, WUNTRACED);
  for (uint64_t i = 0; trace && i < steps && WIFSTOPPED(status); ++i) {
    ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr);
    waitpid(pid, &status, 0);
  }
  kill(pid, SIGKILL);
  if (!WIFEXITED(status) && !WIFSIGNALED(status)) waitpid(pid, &status, 0);
}

std::string RunSeed(uint64_t seed, bool trace) {
  Plan plan(seed);
  const PoolFolder folder;
  void* const memory =
      mmap(nullptr, sizeof(Model), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* const model = new (memory) Model;
  for (int round = 0; round < plan.rounds; ++round) {
    const uint64_t life_seed = plan.random_();
    const int stop_at = static_cast<int>(plan.random_.OneIn(4) ? 0 : plan.random_.Below(150));
    // Mostly within the call, sometimes far behind it.
    const uint64_t steps = plan.random_.Below(uint64_t{64} << plan.random_.Below(8));
    RunAndKill([&] { Life(plan, folder, *model, life_seed).RunChild(stop_at); }, steps, trace);
    if (model->wrong[0] != '\0') break;
  }
  std::string wrong = model->wrong;
  if (wrong.empty()) wrong = Life(plan, folder, *model, 1).Look();
  munmap(memory, sizeof(Model));
  return wrong;
}

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(CrashSim, WhatWasAcknowledgedIsThereAfterAKillAtAnyInstruction) {
  const bool trace = MayTrace();
  if (!trace) std::printf("WARNING: NO TRACING HERE: KILLS COME BETWEEN CALLS ONLY\n");
  InitLog("crash_sim_test", "error", false);
  const uint64_t one = FromEnvironment("SIMM_SIM_SEED", 0);
  const uint64_t first = one != 0 ? one : 1;
  const uint64_t last = one != 0 ? one : FromEnvironment("SIMM_SIM_SEEDS", 1500);
  SeedReport report("crash_sim_test");
  for (uint64_t seed = first; seed <= last; ++seed) {
    report.Running(seed);
    const std::string wrong = RunSeed(seed, trace);
    ASSERT_TRUE(wrong.empty()) << "seed " << seed << ": " << wrong << "\n"
                               << SeedReport::Replay(seed);
  }
}

}  // namespace
}  // namespace simm::dataserver
