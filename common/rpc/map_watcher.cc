#include "common/rpc/map_watcher.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <thread>

#include "common/base/host_port.h"
#include "common/base/log.h"
#include "common/base/mutex.h"
#include "common/base/random.h"
#include "common/rpc/channel.h"
#include "common/rpc/convert.h"
#include "common/rpc/map_follower.h"
#include "proto/map.grpc.pb.h"

namespace simm::rpc {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstUpdateWithin = 2s;  // of a stream; connecting takes at most 1 s of it

Status CheckAddresses(const std::vector<std::string>& addresses) {
  if (addresses.empty()) {
    return Status(Code::kInvalidArgument, "no address of a manager or data server is given");
  }
  for (const std::string& address : addresses) {
    if (Result<HostPort> parsed = ParseHostPort(address); !parsed.ok()) return parsed.status();
  }
  return Status::Ok();
}

std::string Join(const std::vector<std::string>& addresses) {
  std::string text;
  for (const std::string& address : addresses) text += (text.empty() ? "" : ", ") + address;
  return text;
}

}  // namespace

// One stream at a time, on the thread of Run. Its events come through a completion queue, so that
// each wait has a deadline and Stop can end it.
struct MapWatcher::Impl {
  explicit Impl(MapWatcherOptions given)
      : options(std::move(given)),
        random(OsEntropy()),
        refusals(10s),
        addresses(options.addresses) {}

  const MapWatcherOptions options;
  Random random;            // of the thread
  LogLimiter refusals;      // of the log lines about refused maps
  MapFollower follower;     // of the thread
  bool saw_update = false;  // of the thread: the last stream gave something

  mutable Mutex mutex;
  mutable CondVar changed;
  std::vector<std::string> addresses SIMM_GUARDED_BY(mutex);
  std::shared_ptr<const RouteTable> current SIMM_GUARDED_BY(mutex);
  std::string connected_to SIMM_GUARDED_BY(mutex);
  Status last_error SIMM_GUARDED_BY(mutex);
  grpc::ClientContext* context SIMM_GUARDED_BY(mutex) = nullptr;
  bool stopped SIMM_GUARDED_BY(mutex) = false;
  Mutex join_mutex;
  std::thread thread SIMM_GUARDED_BY(join_mutex);

  class Stream;

  bool Stopped() const {
    MutexLock lock(mutex);
    return stopped;
  }

  // False when stopped meanwhile.
  bool Pause(Duration time) {
    const Instant until = MonotonicClock::Get().Now() + time;
    MutexLock lock(mutex);
    while (!stopped) {
      const Duration left = until - MonotonicClock::Get().Now();
      if (left <= Duration::zero()) break;
      changed.WaitFor(mutex, left);
    }
    return !stopped;
  }

  // Whom to ask in this round: the list, then some data servers of the map in hand.
  std::vector<std::string> Candidates() {
    MutexLock lock(mutex);
    return WatchCandidates(addresses, current.get(), options.ask_servers, random);
  }

  void Run() {
    WatchBackoff backoff;
    while (!Stopped()) {
      bool served = false;
      for (const std::string& address : Candidates()) {
        if (Stopped()) return;
        const Status status = ServeFrom(address);
        {
          MutexLock lock(mutex);
          connected_to.clear();
          if (!status.ok()) last_error = status;
        }
        served = saw_update;
        if (served) {
          SIMM_LOG_DEBUG("the map stream of {} ended: {}", address, status.ToString());
          break;  // begin again at the head of the list, where the managers are
        }
      }
      if (!Pause(backoff.Next(served, random))) return;
    }
  }

  // One stream, until it ends. `saw_update` says whether it gave anything.
  Status ServeFrom(const std::string& address);
  // Takes what a stream gave. OK: it is the current table now, or equal to it.
  Status Take(std::shared_ptr<const RouteTable> table, const std::string& address);
};

// The calls of one stream as waits with a deadline.
class MapWatcher::Impl::Stream {
 public:
  Stream(Impl& owner, const std::string& address, const v1::WatchRequest& request)
      : owner_(owner), stub_(v1::MapService::NewStub(SharedChannel(address))) {
    reader_ = stub_->PrepareAsyncWatchMap(&context_, request, &queue_);
    {
      MutexLock lock(owner_.mutex);
      owner_.context = &context_;
      if (owner_.stopped) context_.TryCancel();
    }
    reader_->StartCall(this);
  }
  ~Stream() {
    MutexLock lock(owner_.mutex);
    owner_.context = nullptr;
  }

  // The end of one operation; after `deadline` the stream is cancelled, which ends it too.
  bool Wait(Instant deadline) {
    void* tag = nullptr;
    bool ok = false;
    if (deadline != kForever) {
      const Duration left = deadline - MonotonicClock::Get().Now();
      const auto until = std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::microseconds>(left);
      if (queue_.AsyncNext(&tag, &ok, until) == grpc::CompletionQueue::GOT_EVENT) return ok;
      timed_out_ = true;
      context_.TryCancel();
    }
    return queue_.Next(&tag, &ok) && ok;
  }
  bool Read(v1::MapUpdate& update, Instant deadline) {
    reader_->Read(&update, this);
    return Wait(deadline);
  }
  grpc::Status Finish() {
    context_.TryCancel();
    grpc::Status status;
    reader_->Finish(&status, this);
    Wait(kForever);
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
    return status;
  }
  bool timed_out() const { return timed_out_; }

 private:
  Impl& owner_;
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  std::unique_ptr<v1::MapService::Stub> stub_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::MapUpdate>> reader_;
  bool timed_out_ = false;
};

Status MapWatcher::Impl::ServeFrom(const std::string& address) {
  saw_update = false;
  v1::WatchRequest request;
  request.set_kind(options.kind == WatcherKind::kServer ? v1::WATCHER_KIND_SERVER
                                                        : v1::WATCHER_KIND_CLIENT);
  request.set_server(options.server);
  if (const auto held = follower.BeginStream()) *request.mutable_held() = ToProto(*held);

  Stream stream(*this, address, request);
  Status outcome;
  Instant deadline = MonotonicClock::Get().Now() + kFirstUpdateWithin;
  bool going = stream.Wait(deadline);
  v1::MapUpdate message;
  while (going && stream.Read(message, deadline)) {
    Result<MapUpdate> update = FromProto(message);
    if (!update.ok()) {
      outcome = update.status();
      break;
    }
    Result<std::shared_ptr<const RouteTable>> table = follower.Read(*update, address);
    outcome = table.ok() ? Take(*std::move(table), address) : table.status();
    if (!outcome.ok()) break;
    if (!saw_update && !update->from_manager) {
      deadline = MonotonicClock::Get().Now() + LookForManagerAfter(random);
    } else if (update->from_manager) {
      deadline = kForever;
    }
    saw_update = true;
  }
  const grpc::Status end = stream.Finish();
  if (!outcome.ok()) return outcome;
  if (stream.timed_out()) {
    return Status(Code::kDeadlineExceeded, address + " gave no map within " +
                                               std::to_string(kFirstUpdateWithin / 1s) + " s");
  }
  return FromGrpc(end, address);
}

Status MapWatcher::Impl::Take(std::shared_ptr<const RouteTable> table, const std::string& address) {
  const Result<bool> newer = follower.Take(table, address);
  if (!newer.ok()) {
    if (refusals.Allow(MonotonicClock::Get().Now()) >= 0)
      SIMM_LOG_WARN("{}", newer.status().message());
    return newer.status();
  }
  {
    MutexLock lock(mutex);
    connected_to = address;
    if (!*newer) return Status::Ok();
    current = table;
    changed.NotifyAll();
  }
  if (options.on_table) options.on_table(std::move(table));
  return Status::Ok();
}

MapWatcher::MapWatcher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MapWatcher::~MapWatcher() { Stop(); }

Result<std::unique_ptr<MapWatcher>> MapWatcher::Start(MapWatcherOptions options) {
  SIMM_RETURN_IF_ERROR(CheckAddresses(options.addresses));
  RouteLibraryLogs();
  std::unique_ptr<MapWatcher> watcher(new MapWatcher(std::make_unique<Impl>(std::move(options))));
  Impl& impl = *watcher->impl_;
  MutexLock lock(impl.join_mutex);
  impl.thread = std::thread([&impl] { impl.Run(); });
  return watcher;
}

std::shared_ptr<const RouteTable> MapWatcher::Current() const {
  MutexLock lock(impl_->mutex);
  return impl_->current;
}

Result<std::shared_ptr<const RouteTable>> MapWatcher::WaitForMap(Duration timeout) const {
  const Instant deadline = MonotonicClock::Get().Now() + timeout;
  MutexLock lock(impl_->mutex);
  while (impl_->current == nullptr && !impl_->stopped) {
    const Duration left = deadline - MonotonicClock::Get().Now();
    if (left <= Duration::zero()) break;
    impl_->changed.WaitFor(impl_->mutex, left);
  }
  if (impl_->current != nullptr) return impl_->current;
  const std::string why = impl_->last_error.ok() ? "no answer yet" : impl_->last_error.message();
  return Status(Code::kUnavailable,
                "no key map from any of " + Join(impl_->addresses) + " (last: " + why + ")");
}

std::string MapWatcher::ConnectedTo() const {
  MutexLock lock(impl_->mutex);
  return impl_->connected_to;
}

Status MapWatcher::SetAddresses(std::vector<std::string> addresses) {
  SIMM_RETURN_IF_ERROR(CheckAddresses(addresses));
  MutexLock lock(impl_->mutex);
  impl_->addresses = std::move(addresses);
  return Status::Ok();
}

void MapWatcher::Stop() {
  {
    MutexLock lock(impl_->mutex);
    impl_->stopped = true;
    if (impl_->context != nullptr) impl_->context->TryCancel();
    impl_->changed.NotifyAll();
  }
  MutexLock lock(impl_->join_mutex);
  if (impl_->thread.joinable()) impl_->thread.join();
}

}  // namespace simm::rpc
