#include "tests/sim/client_world.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace simm::sim {

using namespace std::chrono_literals;
using client::CallItem;
using client::CallShape;
using protocol::MessageType;

namespace {

constexpr size_t kLanes = 3;
constexpr size_t kCalls = 2;
constexpr int kSharedKeys = 5;
constexpr int kOwnKeys = 2;
constexpr std::byte kGrave{0xa5};
constexpr uint32_t kDepth = 7;

Hash128 ParentOf(const std::string& key) { return HashOfKey("before " + key); }

Instant RealNow() { return MonotonicClock::Get().Now(); }

}  // namespace

const transport::LocalRegion* RegisteringConnection::RegionOf(std::byte* data, size_t size) {
  auto& region = regions_[{data, size}];
  if (!region) region = *transport_.Register({data, size}, transport::kLocalOnly);
  return region.get();
}

simm::Status RegisteringConnection::Post(std::span<const transport::WorkItem> items) {
  std::vector<transport::WorkItem> registered(items.begin(), items.end());
  std::vector<std::vector<transport::MutableSegment>> segments(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    segments[i].assign(items[i].local.begin(), items[i].local.end());
    for (transport::MutableSegment& segment : segments[i]) {
      if (segment.region == nullptr && segment.size > 0)
        segment.region = RegionOf(segment.data, segment.size);
    }
    std::erase_if(segments[i], [](const auto& segment) { return segment.size == 0; });
    registered[i].local = segments[i];
  }
  return inner().Post(registered);
}

void ClientCounts::Add(const ClientCounts& o) {
  calls += o.calls, ok += o.ok, exists += o.exists, unknown += o.unknown, hits += o.hits;
  misses += o.misses, wrong += o.wrong, broken += o.broken, late += o.late, crashes += o.crashes;
  lease_hits += o.lease_hits, resolves += o.resolves, disowned += o.disowned;
}

SimClient::SimClient(int number, transport::Transport& transport, Server& server, History& history,
                     ClientCounts& counts, uint64_t seed)
    : number_(number),
      transport_(transport),
      server_(server),
      history_(history),
      counts_(counts),
      random_(seed),
      locations_(std::make_shared<client::LocationCache>()) {}

SimClient::~SimClient() {
  counts_.lease_hits += stats_.lease_hits.load();
  counts_.resolves += stats_.resolves.load();
}

client::PoolAccess SimClient::MakePool() const {
  const auto& g = server_.pool->geometry();
  client::PoolAccess pool;
  pool.view = {.bucket_count = g.bucket_count,
               .buckets_offset = g.buckets_offset,
               .index_bytes = g.index_bytes,
               .data_bytes = g.data_bytes};
  pool.overflow_offset = g.overflow_offset;
  pool.boot = {1, 2};
  pool.index = server_.index;
  pool.data = server_.data;
  pool.locations = locations_;
  pool.lost = lost_;
  pool.takes_reports = true;
  return pool;
}

// ---- lanes

std::unique_ptr<client::Lane> SimClient::TakeLane() {
  while (!idle_.empty()) {
    auto lane = std::move(idle_.back());
    idle_.pop_back();
    if (lane->connection().Progress()) return lane;
  }
  if (session_ == 0 || !server_.sessions->IsOpen(session_)) {
    session_ = server_.sessions->Open("client");
    pool_ = std::make_shared<const client::PoolAccess>(MakePool());
  }
  auto connection = transport_.Connect("server", {session_, server_.pool->incarnation()}, 1s);
  auto lane = std::make_unique<client::Lane>(
      std::make_unique<RegisteringConnection>(transport_, std::move(*connection)), session_, pool_);
  EXPECT_TRUE(lane->PrepareScratch().ok());
  return lane;
}

void SimClient::Release(std::unique_ptr<client::Lane> lane) {
  if (!lane->connection().closed() && idle_.size() < kLanes) idle_.push_back(std::move(lane));
}

// Answers to calls that have ended are discarded; then the lane serves again.
void SimClient::MoveLate() {
  for (auto& [lane, age] : late_) {
    for (int i = 0; i < 3; ++i) lane->connection().Progress();
    --age;
  }
  while (!late_.empty() && late_.front().second <= 0) {
    auto lane = std::move(late_.front().first);
    late_.pop_front();
    // As after a ping that was not answered in time.
    if (random_.OneIn(2)) lane->Close();
    if (!lane->connection().closed()) Release(std::move(lane));
  }
}

void SimClient::Crash() {
  ++counts_.crashes;
  for (auto& call : calls_) {
    if (call->lane) call->lane->connection().Close();
    for (size_t i = 0; i < call->keys.size(); ++i) busy_own_.erase(call->keys[i]);
  }
  calls_.clear();
  for (auto& lane : idle_) lane->connection().Close();
  idle_.clear();
  for (auto& [lane, age] : late_) lane->connection().Close();
  late_.clear();
  session_ = 0;
}

void SimClient::CloseLanes() {
  for (auto& call : calls_) {
    GiveUp(*call);
    Conclude(*call);
  }
  calls_.clear();
  late_.clear();
  idle_.clear();
}

bool SimClient::Disown() {
  if (lost_->empty() && idle_.empty()) return true;
  if (idle_.empty()) idle_.push_back(TakeLane());
  client::Lane& lane = *idle_.back();
  if (!lane.connection().Progress()) {
    idle_.pop_back();
    return false;
  }
  if (!lost_->empty()) {
    ++counts_.disowned;
    lane.Tend(RealNow());
  }
  return false;
}

// ---- calls

void SimClient::AddKey(Running& call, bool put) {
  const bool shared = !call.own;
  const std::string key =
      shared ? "key-" + std::to_string(random_.Below(kSharedKeys))
             : "own-" + std::to_string(number_) + "-" + std::to_string(random_.Below(kOwnKeys));
  if (std::find(call.keys.begin(), call.keys.end(), key) != call.keys.end()) return;
  if (put && call.own && !busy_own_.insert(key).second) return;
  call.keys.push_back(key);
  call.versions.push_back(put ? ++last_version_ : 0);
  const uint64_t size = kValueSizes[random_.Below(3)];
  std::vector<std::byte> memory(put ? size : kValueSizes[2]);
  if (put) {
    dataserver::FillValue(memory, key, call.versions.back());
    history_.Posted(key, call.versions.back(), size);
  }
  call.visible.push_back(history_.Visible(key));
  call.memory.push_back(std::move(memory));
}

void SimClient::Begin() {
  auto call = std::make_unique<Running>();
  const bool put = random_.OneIn(2);
  call->own = random_.OneIn(2);
  call->shape.type = put ? MessageType::kPut : MessageType::kGet;
  call->shape.replace = put && call->own;
  call->shape.allow_shorter = true;
  call->shape.verify = Verify::kOff;
  call->shape.map = {1, 5};
  call->patience = random_.OneIn(6) ? static_cast<int>(random_.Below(40)) : 4000;
  for (uint64_t n = 1 + random_.Below(4); n > 0; --n) AddKey(*call, put);
  if (call->keys.empty()) return;
  call->items.resize(call->keys.size());
  for (size_t i = 0; i < call->keys.size(); ++i) {
    CallItem& item = call->items[i];
    item.key = call->keys[i];
    item.hash = HashOfKey(item.key);
    item.size = call->memory[i].size();
    item.parent = ParentOf(call->keys[i]);
    item.depth = kDepth;
    if (put) item.value = call->memory[i].data();
    if (!put) item.buffer = call->memory[i].data();
    call->left.push_back(&item);
  }
  ++counts_.calls;
  calls_.push_back(std::move(call));
  Start(*calls_.back());
}

void SimClient::Start(Running& call) {
  call.lane = TakeLane();
  call.exchange = client::MakeExchange(call.shape, call.left, stats_, *call.lane);
  call.lane->Attach(call.exchange.get());
  if (!call.exchange->Begin(*call.lane).ok()) OnFailed(call);
}

// As Call::OnExchangeFailed.
void SimClient::OnFailed(Running& call) {
  ++counts_.broken;
  const bool in_doubt = call.exchange->in_doubt();
  const bool heard = call.exchange->heard() && !in_doubt;
  const bool fresh = call.lane->fresh() && !in_doubt;
  call.lane->Detach();
  if (fresh || call.attempts > 0) session_ = 0;
  call.lane->Close();
  call.lane.reset();
  std::erase_if(call.left, [](const CallItem* item) { return item->done; });
  call.exchange.reset();
  if (heard || ++call.attempts >= 3 || call.left.empty()) {
    for (CallItem* const item : call.left) {
      item->result.code = Code::kUnavailable;
      item->done = true;
    }
    call.left.clear();
    return;
  }
  Start(call);
}

// As Call::GiveUpLate.
void SimClient::GiveUp(Running& call) {
  ++counts_.late;
  for (CallItem& item : call.items) {
    if (item.done) continue;
    item.result.code = Code::kDeadlineExceeded;
    item.done = true;
  }
  if (!call.lane) return;
  if (!call.exchange->unsent()) call.exchange->GiveUp();
  call.lane->Detach();
  if (call.exchange->unsent() || random_.OneIn(3)) {
    call.lane->Close();
    call.lane.reset();
  } else {
    late_.emplace_back(std::move(call.lane), static_cast<int>(random_.Below(60)));
  }
  call.exchange.reset();
}

// A round is over: undone items are repeated. True: the call is over.
bool SimClient::EndRound(Running& call) {
  call.lane->Detach();
  Release(std::move(call.lane));
  call.exchange.reset();
  std::erase_if(call.left, [](const CallItem* item) { return item->done; });
  if (call.left.empty() || ++call.rounds > 20) {
    for (CallItem* const item : call.left) item->done = true;
    return true;
  }
  call.attempts = 0;
  Start(call);
  return false;
}

bool SimClient::Drive(Running& call) {
  if (call.left.empty()) return true;
  if (--call.patience <= 0) {
    GiveUp(call);
    return true;
  }
  for (int i = 0; i < 3; ++i) {
    call.lane->connection().Progress();
    call.exchange->Advance();
    if (call.exchange->failed()) {
      OnFailed(call);
      return call.left.empty();
    }
    if (call.exchange->finished() && !call.exchange->unsent()) return EndRound(call);
  }
  return false;
}

void SimClient::Step() {
  MoveLate();
  for (size_t i = 0; i < calls_.size();) {
    if (!Drive(*calls_[i])) {
      ++i;
      continue;
    }
    Conclude(*calls_[i]);
    calls_.erase(calls_.begin() + static_cast<ptrdiff_t>(i));
  }
  for (Buried& grave : buried_) ++grave.age;
  while (!buried_.empty() && buried_.front().age > 300) {
    for (const std::byte byte : buried_.front().memory) wrong_touches_ += byte != kGrave ? 1 : 0;
    buried_.pop_front();
  }
  if (calls_.size() < kCalls && random_.OneIn(4)) Begin();
  if (!idle_.empty() && random_.OneIn(30)) {
    // Sometimes as if they had lain unused for long.
    idle_[random_.Below(idle_.size())]->Tend(RealNow() + (random_.OneIn(3) ? 6s : 0s));
  }
  if (random_.OneIn(400)) Crash();
}

// ---- results

void SimClient::Bury(std::vector<std::byte> memory) {
  std::fill(memory.begin(), memory.end(), kGrave);
  buried_.push_back({std::move(memory), 0});
}

// What is visible now may be what a get that is under way has found.
void SimClient::RememberFor(const std::string& key) {
  const auto visible = history_.Visible(key);
  for (const auto& call : calls_) {
    for (size_t i = 0; i < call->keys.size(); ++i) {
      if (call->keys[i] != key) continue;
      call->visible[i].insert(call->visible[i].end(), visible.begin(), visible.end());
    }
  }
}

void SimClient::JudgePut(Running& call, size_t i) {
  const Code code = call.items[i].result.code;
  const std::string& key = call.keys[i];
  if (call.own) busy_own_.erase(key);
  if (code == Code::kOk) {
    ++counts_.ok;
    history_.Acknowledged(key);
    if (!call.own) return;
    // What was acknowledged before lies behind this one, and must not come again.
    RememberFor(key);
    for (const uint64_t version : settled_[key]) history_.Dead(key, version);
    settled_[key] = {call.versions[i]};
    return;
  }
  EXPECT_TRUE(code != Code::kExists || !call.own) << "a replacement that kept what was there";
  if (code == Code::kExists) {
    ++counts_.exists;
    history_.Acknowledged(key);
  } else {
    ++counts_.unknown;
  }
}

// Whoever has put it, it lies there with its hints.
void SimClient::ExpectHints(const std::string& key) const {
  dataserver::PinnedValue pinned;
  if (server_.pool->Acquire(HashOfKey(key), 0, key, &pinned) != Code::kOk) return;
  protocol::ExtentHeader header;
  std::memcpy(&header, pinned.head.data(), sizeof header);
  server_.pool->Release(pinned);
  EXPECT_EQ(header.depth, kDepth);
  EXPECT_EQ(header.parent_high, ParentOf(key).high);
  EXPECT_EQ(header.parent_low, ParentOf(key).low);
}

void SimClient::JudgeGet(Running& call, size_t i) {
  const CallItem& item = call.items[i];
  const std::string& key = call.keys[i];
  if (item.result.code != Code::kOk) {
    ++counts_.misses;
    return;
  }
  ++counts_.hits;
  ExpectHints(key);
  const ByteSpan bytes = ByteSpan(call.memory[i]).first(item.result.value_bytes);
  bool right = false;
  for (const auto& puts : {call.visible[i], history_.Visible(key)}) {
    for (const History::Put& put : puts)
      right |= put.size == bytes.size() && dataserver::IsValue(bytes, key, put.version);
  }
  EXPECT_TRUE(right) << key << ", " << bytes.size() << " bytes";
  counts_.wrong += right ? 0 : 1;
}

void SimClient::Conclude(Running& call) {
  for (size_t i = 0; i < call.keys.size(); ++i) {
    call.shape.type == MessageType::kPut ? JudgePut(call, i) : JudgeGet(call, i);
    Bury(std::move(call.memory[i]));
  }
}

}  // namespace simm::sim
