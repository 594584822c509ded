// The watch streams of a ScaleWorld: what MapStream and MapWatcher do over gRPC, on virtual time.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "common/rpc/map_codec.h"
#include "tests/sim/scale_parts.h"

namespace simm::sim {

using namespace std::chrono_literals;
using rpc::WatcherKind;

namespace {

constexpr Duration kWindow = 100ms;
constexpr double kBytesPerNano = 1.25;  // 10 Gb/s
constexpr Duration kRefused = 1ms;      // a host that is up says so
constexpr Duration kNoAnswer = 2s;      // until a watcher gives a silent address up

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string text;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  for (const grpc::Slice& slice : slices)
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

}  // namespace

ScaleWorld::Source* ScaleWorld::Find(const std::string& address) {
  if (address == kManagerAddress) return source_.get();
  const size_t number = std::strtoull(address.c_str() + 1, nullptr, 10);
  Server& server = *servers_.at(number);
  return server.running ? server.source.get() : nullptr;
}

void ScaleWorld::CountAttempt(bool at_manager) {
  ++figures_.attempts;
  const int64_t window = time_.Now().nanos / kWindow.count();
  if (window != window_) in_window_ = {};
  window_ = window;
  in_window_[0] += at_manager;
  figures_.most_attempts_at_manager = std::max(figures_.most_attempts_at_manager, in_window_[0]);
}

void ScaleWorld::Connect(Watcher& watcher, std::vector<std::string> candidates, size_t at) {
  if (at == candidates.size()) return Retry(watcher, false);
  const std::string& address = candidates[at];
  const bool at_manager = address == kManagerAddress;
  CountAttempt(at_manager);
  const bool silent = at_manager && watcher.server != nullptr && watcher.server->cut_off;
  const bool refused = Find(address) == nullptr;
  const Duration time = silent ? kNoAnswer : (refused ? kRefused : Latency());
  time_.After(time, [this, &watcher, candidates, at, bad = silent || refused, life = watcher.life] {
    if (watcher.life != life) return;
    Source* const source = Find(candidates[at]);
    if (bad || source == nullptr || source->board.Current(watcher.kind) == nullptr)
      return Connect(watcher, candidates, at + 1);
    Serve(watcher, *source);
  });
}

// As MapStream::Begin.
void ScaleWorld::Serve(Watcher& watcher, Source& source) {
  auto stream = std::make_shared<Stream>();
  stream->watcher = &watcher;
  stream->source = &source;
  watcher.stream = stream;
  source.streams.insert(stream);
  const MapVersion held = watcher.follower.BeginStream().value_or(MapVersion{});
  if (source.from_manager()) {
    ++in_window_[1];
    figures_.most_streams_opened = std::max(figures_.most_streams_opened, in_window_[1]);
  }
  double unused = 0;
  Cpu cpu(source.from_manager() ? figures_.stream_cpu : unused);
  const Table current = source.board.Current(watcher.kind);
  if (current->version() == held) {
    stream->sent = current;
    auto message = std::make_shared<Message>();
    message->bytes = BytesOf(source.cache.UpToDate(held));
    Send(stream, std::move(message));
  }
  stream->token =
      source.board.Subscribe(watcher.kind, [this, weak = std::weak_ptr(stream)](Table table) {
        const auto its = weak.lock();
        if (its == nullptr) return;
        its->newest = std::move(table);
        SendNewest(its);
      });
}

void ScaleWorld::SendNewest(const std::shared_ptr<Stream>& stream) {
  if (!stream->open || stream->writing || stream->newest == nullptr) return;
  if (stream->sent != nullptr && stream->sent->version() == stream->newest->version()) return;
  Send(stream, MessageFor(*stream->source, stream->sent.get(), stream->newest));
  stream->sent = stream->newest;
}

// The bytes are those of the source's UpdateCache; decoded once for all who get the same ones.
std::shared_ptr<ScaleWorld::Message> ScaleWorld::MessageFor(Source& source, const RouteTable* sent,
                                                            const Table& newest) {
  const grpc::ByteBuffer buffer = source.cache.Update(sent, *newest);
  const std::string key = (source.from_manager() ? "m" : "s") + ToString(newest->version()) +
                          (sent != nullptr ? ToString(sent->version()) : "");
  std::shared_ptr<Message>& message = messages_[key];
  if (message != nullptr) return message;
  message = std::make_shared<Message>();
  message->bytes = BytesOf(buffer);
  EXPECT_EQ(message->bytes.size(), buffer.Length());
  const auto given = message;
  if (messages_.size() > 64) messages_.clear();
  return given;
}

void ScaleWorld::Send(const std::shared_ptr<Stream>& stream, std::shared_ptr<Message> message) {
  Source& source = *stream->source;
  const auto bytes = static_cast<uint64_t>(message->bytes.size());
  figures_.bytes += bytes;
  if (source.from_manager()) figures_.manager_bytes += bytes;
  source.sending_until = std::max(source.sending_until, time_.Now()) +
                         Duration(static_cast<int64_t>(static_cast<double>(bytes) / kBytesPerNano));
  stream->writing = true;
  time_.At(source.sending_until + Latency(), [this, stream, message = std::move(message)] {
    if (stream->open) Deliver(stream, *message);
  });
}

// As MapWatcher's loop over one stream.
void ScaleWorld::Deliver(const std::shared_ptr<Stream>& stream, Message& message) {
  Watcher& watcher = *stream->watcher;
  const bool decode = watcher.by_itself || !message.decoded;
  rpc::MapUpdate own;
  if (decode) {
    auto update = rpc::DecodeUpdate(message.bytes);
    ASSERT_TRUE(update.ok()) << update.status().ToString();
    own = *std::move(update);
    message.diff = own.diff != nullptr;
    message.snapshot = own.snapshot != nullptr;
  }
  auto table = watcher.follower.Read(decode ? own : message.update, "source");
  ASSERT_TRUE(table.ok()) << table.status().ToString();
  if (decode) Check(**table);
  if (!message.decoded) {
    message.decoded = true;
    message.update = std::move(own);
    if (message.diff) {  // the others that hold the same table come to the same one
      message.update.diff.reset();
      message.update.snapshot = *table;
    }
  }
  const auto size = static_cast<uint64_t>(message.bytes.size());
  ++(message.diff ? figures_.diffs : message.snapshot ? figures_.snapshots : figures_.up_to_dates);
  if (message.diff) figures_.largest_diff = std::max(figures_.largest_diff, size);
  if (message.snapshot) figures_.largest_snapshot = std::max(figures_.largest_snapshot, size);
  const auto newer = watcher.follower.Take(*std::move(table), "source");
  if (!newer.ok()) {
    Break(stream);
    return Retry(watcher, stream->saw_update);
  }
  if (*newer) Taken(watcher, watcher.follower.held());
  if (!std::exchange(stream->saw_update, true) && !stream->source->from_manager()) {
    time_.After(rpc::LookForManagerAfter(watcher.random), [this, stream] {
      if (!stream->open) return;
      Break(stream);
      Retry(*stream->watcher, true);
    });
  }
  stream->writing = false;
  SendNewest(stream);
}

void ScaleWorld::Taken(Watcher& watcher, const Table& table) {
  last_change_ = time_.Now();
  const auto it = published_.find({table->version().term, table->version().epoch});
  if (it != published_.end()) {
    Duration& late = watcher.server != nullptr ? figures_.servers_late : figures_.clients_late;
    const bool counts = watcher.stream->source->from_manager() && watcher.stream->saw_update;
    if (counts) late = std::max(late, time_.Now() - it->second.second);
  }
  if (watcher.server == nullptr) return ExpectServersFirst(table->version());
  Server& server = *watcher.server;
  server.board->Publish(table);
  if (server.id == kNoServer) {
    server.soon = true;
  } else {
    time_.After(0s, [this, &server, beat = ++server.beat] { Heartbeat(server, beat); });
  }
}

// The first client that sees an epoch: every data server that the manager hears has it, or has had
// its time.
void ScaleWorld::ExpectServersFirst(const MapVersion& version) {
  if (!clients_newest_.SameCluster(version)) clients_newest_ = {version.cluster, 0, 0};
  if (!clients_newest_.OlderThan(version)) return;
  clients_newest_ = version;
  const auto it = published_.find({version.term, version.epoch});
  // After a start of the manager its map is everybody's at once.
  if (it == published_.end() || it->second.second <= manager_began_) return;
  if (time_.Now() - it->second.second >= limits::kServersFirst) return;
  // Where epochs follow each other the oldest that is held back decides.
  if (it == published_.begin() ||
      it->second.second - std::prev(it)->second.second < limits::kServersFirst)
    return;
  for (const auto& server : servers_) {
    if (!server->running || server->cut_off || server->id == kNoServer) continue;
    const Table& held = server->watcher.follower.held();
    EXPECT_TRUE(held != nullptr && !held->version().OlderThan(version))
        << "a client has " << ToString(version) << " before " << server->request.name;
  }
}

void ScaleWorld::Break(const std::shared_ptr<Stream>& stream) {
  if (!stream->open) return;
  stream->open = false;
  stream->source->streams.erase(stream);
  if (stream->token != 0) stream->source->board.Unsubscribe(stream->token);
  if (stream->watcher->stream == stream) stream->watcher->stream = nullptr;
}

// The process is gone: its peers see their connections end.
void ScaleWorld::EndStreams(Source& source) {
  const auto streams = source.streams;
  for (const auto& stream : streams) {
    Break(stream);
    time_.After(Latency(), [this, stream, life = stream->watcher->life] {
      if (stream->watcher->life == life && stream->watcher->stream == nullptr)
        Retry(*stream->watcher, stream->saw_update);
    });
  }
}

void ScaleWorld::Retry(Watcher& watcher, bool served) {
  time_.After(watcher.backoff.Next(served, watcher.random), [this, &watcher, life = watcher.life] {
    if (watcher.life != life || watcher.stream != nullptr) return;
    const bool client = watcher.server == nullptr;
    Connect(watcher,
            rpc::WatchCandidates({kManagerAddress}, watcher.follower.held().get(), client,
                                 watcher.random),
            0);
  });
}

}  // namespace simm::sim
