#include "common/rpc/map_stream.h"

#include <string>
#include <utility>

#include "common/base/limits.h"
#include "common/rpc/channel.h"
#include "common/rpc/convert.h"
#include "common/rpc/map_codec.h"

namespace simm::rpc {
namespace {

// Streams of one process, far beyond the 10,000 clients of DESIGN 11.
constexpr size_t kMaxWatchers = 65536;

grpc::ByteBuffer BufferOf(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// A stream that only says why there is none.
class RefusedStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit RefusedStream(const Status& why) { Finish(ToGrpc(why)); }
  void OnDone() override { delete this; }
};

Result<v1::WatchRequest> Parse(const grpc::ByteBuffer& bytes) {
  v1::WatchRequest request;
  std::vector<grpc::Slice> slices;
  std::string text;
  if (bytes.Length() <= kMaxRequestBytes && bytes.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
    if (request.ParseFromString(text)) return request;
  }
  return Status(Code::kProtocolError, "the bytes are no WatchRequest");
}

}  // namespace

grpc::ByteBuffer UpdateCache::UpToDate(const MapVersion& version) const {
  return BufferOf(EncodeUpToDate(version, from_manager_));
}

grpc::ByteBuffer UpdateCache::Update(const RouteTable* sent, const RouteTable& newest) {
  const bool snapshot = sent == nullptr || !sent->version().SameCluster(newest.version()) ||
                        sent->replicas() != newest.replicas() ||
                        sent->version().term != newest.version().term ||
                        newest.version().epoch - sent->version().epoch > limits::kWatchQueueUpdates;
  const MapVersion from = snapshot ? MapVersion{} : sent->version();
  MutexLock lock(mutex_);
  for (const Entry& entry : entries_) {
    if (entry.to == newest.version() && entry.from == from) return entry.bytes;
  }
  // Built under the lock: the next stream wants the same one.
  Entry& entry = entries_[next_++ % entries_.size()];
  entry.from = from;
  entry.to = newest.version();
  entry.bytes = BufferOf(snapshot ? EncodeSnapshot(newest, from_manager_)
                                  : EncodeDiff(newest.DiffFrom(*sent), from_manager_));
  return entry.bytes;
}

// One watcher. gRPC owns its life: it deletes itself in OnDone, after the last reaction. Writes and
// Finish are started under the mutex, so that none follows Finish; gRPC runs their reactions later,
// on its own threads, never inside these calls.
class MapStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit MapStream(MapServiceHost& host) : host_(host) {}

  void Begin(const v1::WatchRequest& request) {
    const WatcherKind kind =
        request.kind() == v1::WATCHER_KIND_SERVER ? WatcherKind::kServer : WatcherKind::kClient;
    const MapVersion held = request.has_held() ? FromProto(request.held()) : MapVersion{};
    const std::shared_ptr<const RouteTable> current = host_.source_.Current(kind);
    if (current == nullptr) {
      End(Status(Code::kUnavailable, "no key map here yet"));
      return;
    }
    if (current->version() == held) {
      MutexLock lock(mutex_);
      sent_ = current;
      buffer_ = host_.cache_.UpToDate(held);
      writing_ = true;
      StartWrite(&buffer_);
    }
    token_ = host_.source_.Subscribe(
        kind, [this](std::shared_ptr<const RouteTable> table) { OnTable(std::move(table)); });
  }

  void End(const Status& why) {
    MutexLock lock(mutex_);
    if (finished_) return;
    finished_ = true;
    Finish(ToGrpc(why));
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      End(Status(Code::kUnavailable, "the watcher is gone"));
      return;
    }
    MutexLock lock(mutex_);
    writing_ = false;
    SendNewest();
  }
  void OnCancel() override { End(Status(Code::kUnavailable, "cancelled")); }
  void OnDone() override {
    if (token_ != 0) host_.source_.Unsubscribe(token_);
    host_.Forget(this);
    delete this;
  }

 private:
  void OnTable(std::shared_ptr<const RouteTable> table) {
    MutexLock lock(mutex_);
    newest_ = std::move(table);
    SendNewest();
  }
  void SendNewest() SIMM_REQUIRES(mutex_) {
    if (finished_ || writing_ || newest_ == nullptr) return;
    if (sent_ != nullptr && sent_->version() == newest_->version()) return;
    buffer_ = host_.cache_.Update(sent_.get(), *newest_);
    sent_ = newest_;
    writing_ = true;
    StartWrite(&buffer_);
  }

  MapServiceHost& host_;
  uint64_t token_ = 0;  // set before gRPC knows this stream
  Mutex mutex_;
  std::shared_ptr<const RouteTable> sent_ SIMM_GUARDED_BY(mutex_);
  std::shared_ptr<const RouteTable> newest_ SIMM_GUARDED_BY(mutex_);
  grpc::ByteBuffer buffer_ SIMM_GUARDED_BY(mutex_);
  bool writing_ SIMM_GUARDED_BY(mutex_) = false;
  bool finished_ SIMM_GUARDED_BY(mutex_) = false;
};

grpc::ServerWriteReactor<grpc::ByteBuffer>* MapServiceHost::WatchMap(
    grpc::CallbackServerContext*, const grpc::ByteBuffer* request) {
  Result<v1::WatchRequest> parsed = Parse(*request);
  if (!parsed.ok()) return new RefusedStream(parsed.status());
  auto* stream = new MapStream(*this);
  {
    MutexLock lock(mutex_);
    if (closed_ || streams_.size() >= kMaxWatchers) {
      delete stream;
      return new RefusedStream(
          Status(closed_ ? Code::kUnavailable : Code::kBusy,
                 closed_ ? "this server is shutting down" : "too many map watchers"));
    }
    streams_.insert(stream);
  }
  stream->Begin(*parsed);
  return stream;
}

void MapServiceHost::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
  for (MapStream* stream : streams_) {
    stream->End(Status(Code::kUnavailable, "this server is shutting down"));
  }
  while (!streams_.empty()) empty_.Wait(mutex_);
}

void MapServiceHost::Forget(MapStream* stream) {
  MutexLock lock(mutex_);
  streams_.erase(stream);
  if (streams_.empty()) empty_.NotifyAll();
}

}  // namespace simm::rpc
