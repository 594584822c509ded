#include "tests/sim/chaos_read_driver.h"

#include <cstring>

namespace simm {
namespace {

using dataserver::HashOf;
using transport::MutableSegment;
using transport::Op;
using transport::WorkItem;

constexpr int kKeys = 6;
constexpr int kReads = 12;
constexpr uint64_t kMaxValue = 3000;
constexpr size_t kMaxPushes = 3;
constexpr transport::SessionTag kTag = {1, 1};

}  // namespace

ChaosRead::ChaosRead(uint64_t seed, Variant variant, const transport::ChaosOptions& options,
                     bool verify)
    : random_(seed), network_(seed + 1, options), variant_(variant), verify_(verify) {
  pool_ = std::move(*dataserver::Pool::Create(
      {.memory_bytes = 1 << 20, .mean_value_bytes = 64 << 10, .path = "", .prefault = false},
      clock_));
  const ByteSpan index = pool_->index_memory();
  index_region_ = *transport_.Register({const_cast<std::byte*>(index.data()), index.size()},
                                       transport::kRemoteRead);
  data_region_ =
      *transport_.Register(pool_->data_memory(), transport::kRemoteRead | transport::kRemoteWrite);
  index_ = index_region_->Describe();
  data_ = data_region_->Describe();
  scratch_region_ = *transport_.Register({reinterpret_cast<std::byte*>(&scratch_), sizeof scratch_},
                                         transport::kLocalOnly);
  buffer_.resize(kMaxValue);
  buffer_region_ = *transport_.Register(buffer_, transport::kLocalOnly);
  acceptor_ = *transport_.Listen("server", "--listen",
                                 [](const transport::SessionTag&) { return Status(); });
  Connect();
  // So that a new value takes the memory of an old one at once.
  for (int i = 0; i < 60; ++i) {
    if (dataserver::Put(*pool_, "filler-" + std::to_string(i), 20'000) != Code::kOk) break;
  }
}

ChaosRead::~ChaosRead() { pushes_.clear(); }

void ChaosRead::Connect() {
  near_ = *transport_.Connect("server", kTag, std::chrono::seconds(1));
  near_->Start(&receiver_);
  far_ = acceptor_->Accept();
  far_->Start(&receiver_);
}

ChaosRead::Outcome ChaosRead::Run() {
  for (int i = 0; i < kReads; ++i) ReadOne();
  for (Push& push : pushes_) {
    push.near->Close();
    push.far->Close();
  }
  EXPECT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
  return outcome_;
}

// What the owner does between two pieces of the reader's work.
void ChaosRead::Mutate() {
  clock_.Advance(std::chrono::microseconds(random_.Below(1000)));
  if (overwritten_) {
    pool_->Remove(HashOf(*overwritten_), 0, *overwritten_);
    overwritten_.reset();
  }
  const std::string key = "key-" + std::to_string(random_.Below(kKeys));
  switch (random_.Below(8)) {
    case 0:
    case 1:
      PutDirectly(key);
      break;
    case 2:
      if (pushes_.size() < kMaxPushes) StartPush(key);
      break;
    case 3:
      pool_->Remove(HashOf(key), 0, key);
      break;
    case 4:
      (void)dataserver::Put(*pool_, "filler-" + std::to_string(random_()),
                            20'000 + random_.Below(20'000));
      break;
    case 5:
      pool_->EvictSome();
      break;
    case 6:
      if (variant_ == Variant::kOwnerWritesFirst) OverwriteLive(key);
      break;
    default:
      DrivePushes();
  }
}

void ChaosRead::PutDirectly(const std::string& key) {
  const uint64_t version = ++versions_[key];
  const uint64_t size = 1 + random_.Below(kMaxValue);
  const auto mode =
      random_.OneIn(3) ? dataserver::PutMode::kIfAbsent : dataserver::PutMode::kReplace;
  if (dataserver::Put(*pool_, key, size, version, mode) == Code::kOk) {
    committed_[key].push_back({version, size});
  }
}

// WRITE and COMMIT under one doorbell (DESIGN 6), on a lane of its own.
void ChaosRead::StartPush(const std::string& key) {
  const uint64_t size = 1 + random_.Below(kMaxValue);
  auto grant = pool_->Allocate(HashOf(key), 0, key, size);
  if (!grant.ok()) return;
  Push& push = pushes_.emplace_back(*this);
  push.key = key;
  push.version = ++versions_[key];
  push.grant = *grant;
  push.value.resize(size);
  dataserver::FillValue(push.value, key, push.version);
  push.region = *transport_.Register(push.value, transport::kLocalOnly);
  push.near = *transport_.Connect("server", kTag, std::chrono::seconds(1));
  push.near->Start(&push.near_receiver);
  push.far = acceptor_->Accept();
  push.far->Start(&push);
  const MutableSegment local[] = {{push.value.data(), size, push.region.get()}};
  WorkItem items[2];
  items[0] = ItemFor(data_, grant->value.data() - pool_->data_memory().data(), local);
  items[0].op = Op::kWrite;
  items[1].message.body = AsBytes(std::string_view("commit"));
  items[1].completion = &push.done;
  ASSERT_TRUE(push.near->Post(items).ok());
}

transport::PayloadTarget ChaosRead::Push::OnMessage(uint64_t, ByteSpan, uint64_t) {
  if (!grant) return {};
  // Receipt proves that the value is placed.
  EXPECT_TRUE(dataserver::IsValue(grant->value, key, version)) << "committed before it was placed";
  const Code code = simulation.pool_->Commit(
      *grant, HashOf(key), 0, key, dataserver::PutMode::kReplace, Xxh3_64(grant->value), {});
  if (code == Code::kOk) {
    simulation.committed_[key].push_back({version, grant->value.size()});
    ++simulation.outcome_.pushed;
  }
  grant.reset();
  return {};
}

// The server's end is closed: nothing of the writer can reach the extent any more.
void ChaosRead::Push::OnClosed(const Status&) {
  if (grant) simulation.pool_->Abandon(*grant);
  grant.reset();
}

void ChaosRead::DrivePushes() {
  for (auto it = pushes_.begin(); it != pushes_.end();) {
    Push& push = *it;
    if (!push.near->closed() && random_.OneIn(12)) {
      push.near->Close();  // the writer dies; what it has sent is on its way
      std::fill(push.value.begin(), push.value.end(), std::byte{0xdd});
      if (push.grant) ++outcome_.killed;
      if (variant_ == Variant::kNoBarrier && push.grant) {
        pool_->Abandon(*push.grant);
        push.grant.reset();
      }
    }
    if (!push.near->closed()) push.near->Progress();
    // A server that is slow to notice.
    if (!push.near->closed() || random_.OneIn(8)) push.far->Progress();
    if (push.done.done && !push.grant) push.near->Close();
    it = push.near->closed() && push.far->closed() ? pushes_.erase(it) : std::next(it);
  }
}

void ChaosRead::OverwriteLive(const std::string& key) {
  dataserver::PinnedValue pinned;
  if (pool_->Acquire(HashOf(key), 0, key, &pinned) != Code::kOk) return;
  std::memset(const_cast<std::byte*>(pinned.value.data()), 0xee, pinned.value.size());
  pool_->Release(pinned);
  overwritten_ = key;
}

WorkItem ChaosRead::ItemFor(const transport::RemoteRegion& region, uint64_t offset,
                            std::span<const MutableSegment> local) {
  WorkItem item;
  item.op = Op::kRead;
  item.local = local;
  item.remote = &region;
  item.remote_offset = offset;
  return item;
}

// Under one doorbell; the last one's completion ends it.
Status ChaosRead::Read(std::vector<WorkItem> items) {
  Done done;
  items.back().completion = &done;
  if (Status s = near_->Post(items); !s.ok()) return s;
  while (!done.done) {
    if (random_.OneIn(4)) Mutate();
    near_->Progress();
  }
  return done.status;
}

Status ChaosRead::Perform(Next next, protocol::ValidatedRead& read) {
  const MutableSegment slot[] = {Scratch(&scratch_.slot, sizeof scratch_.slot)};
  if (next == Next::kReadBucket) {
    const MutableSegment bucket[] = {Scratch(&scratch_.bucket, sizeof scratch_.bucket)};
    return Read({ItemFor(index_, read.offset(), bucket)});
  }
  if (next == Next::kReadSlot) {
    if (std::exchange(looked_behind_, false)) return Status::Ok();
    SIMM_RETURN_IF_ERROR(Read({ItemFor(index_, read.offset(), slot)}));
    const protocol::Slot seen = read.location().slot;
    if (variant_ == Variant::kGenerationReused &&
        protocol::SlotWord{scratch_.slot.word}.state() == protocol::SlotState::kLive &&
        scratch_.slot.fingerprint() == seen.fingerprint()) {
      scratch_.slot = seen;
      protocol::ExtentHeader header;
      std::memcpy(&header, scratch_.head, sizeof header);
      header.generation = protocol::SlotWord{seen.word}.generation();
      std::memcpy(scratch_.head, &header, sizeof header);
    }
    return Status::Ok();
  }
  std::vector<MutableSegment> local = {Scratch(scratch_.head, read.head_bytes())};
  if (read.value_bytes() > 0) {
    local.push_back({buffer_.data(), read.value_bytes(), buffer_region_.get()});
  }
  std::vector<WorkItem> items = {ItemFor(data_, read.offset(), local)};
  if (variant_ == Variant::kSecondLookBehind) {
    items.push_back(ItemFor(index_, read.location().slot_offset, slot));
    looked_behind_ = true;
  }
  return Read(std::move(items));
}

// The answer to a kLookup: the slot as it is now, and the value pinned.
protocol::Location ChaosRead::Locate(const std::string& key) {
  protocol::Location location;
  const Hash128 hash = HashOf(key);
  dataserver::PinnedValue pinned;
  location.code = pool_->Acquire(hash, 0, key, &pinned);
  if (location.code != Code::kOk) return location;
  pins_.push_back(pinned);
  const auto& g = pool_->geometry();
  for (uint64_t at = g.buckets_offset; at + protocol::kSlotBytes <= g.leases_offset;
       at += protocol::kSlotBytes) {
    protocol::Slot slot;
    std::memcpy(&slot, pool_->index_memory().data() + at, sizeof slot);
    if (protocol::SlotWord{slot.word}.state() == protocol::SlotState::kLive &&
        slot.fingerprint() == hash) {
      location.slot = slot;
      location.slot_offset = at;
    }
  }
  return location;
}

void ChaosRead::ReadOne() {
  const std::string key = "key-" + std::to_string(random_.Below(kKeys));
  const auto& g = pool_->geometry();
  protocol::ValidatedRead read({g.bucket_count, g.buckets_offset, g.index_bytes, g.data_bytes},
                               {.hash = HashOf(key),
                                .namespace_id = 0,
                                .key = key,
                                .buffer = buffer_,
                                .allow_shorter = true,
                                .verify = verify_},
                               scratch_);
  std::optional<protocol::CachedLocation> cached;
  if (const auto it = cache_.find(key); it != cache_.end() && random_.OneIn(2)) cached = it->second;
  looked_behind_ = false;
  Code code = Code::kMiss;
  Next next = read.Start(cached);
  while (next != Next::kDone) {
    if (next == Next::kAskServer) {
      ++outcome_.asked;
      next = read.OnLocation(Locate(key));
      continue;
    }
    if (!Perform(next, read).ok()) break;
    if (variant_ == Variant::kNoSecondLook && next == Next::kReadExtent) {
      code = Code::kOk;
      break;
    }
    next = read.OnRead();
  }
  if (next == Next::kDone) code = read.result();
  Judge(key, code, read);
  if (near_->closed()) {  // the get is a miss, the lane comes anew
    ++outcome_.broken;
    Connect();
  }
}

void ChaosRead::Judge(const std::string& key, Code code, const protocol::ValidatedRead& read) {
  for (const auto& pinned : pins_) pool_->Release(pinned);
  pins_.clear();
  outcome_.retries += static_cast<int>(read.retries());
  if (code != Code::kOk) {
    ++outcome_.misses;
    return;
  }
  const ByteSpan bytes = ByteSpan(buffer_).first(read.value_bytes());
  bool right = false;
  for (const auto& [version, size] : committed_[key]) {
    right |= size == bytes.size() && dataserver::IsValue(bytes, key, version);
  }
  ++(right ? outcome_.hits : outcome_.wrong);
  cache_[key] = read.location();
}

}  // namespace simm
