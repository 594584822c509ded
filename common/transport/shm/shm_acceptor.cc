#include "common/transport/shm/shm_acceptor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/transport/shm/packet.h"
#include "common/transport/shm/shm_connection.h"

namespace simm::transport {
namespace {

// Peers that have connected and not said hello. Ours say it at once, so nobody honest is ever the
// oldest of so many.
constexpr size_t kMaxWaiting = 64;
constexpr auto kHelloTimeout = std::chrono::seconds(2);
constexpr int kBacklog = 1024;

Status Taken(const std::string& endpoint, const std::string& flag, const std::string& why) {
  return Status(Code::kUnavailable, "cannot listen on " + endpoint + ": " + why +
                                        "; stop the program that holds it or choose another with " +
                                        flag);
}

void SendRefusal(int fd, const Status& why) {
  const std::string text = why.message().substr(0, 512);
  PacketHeaderBytes header;
  EncodePacketHeader({.kind = PacketKind::kRefusal,
                      .body_bytes = static_cast<uint16_t>(text.size()),
                      .request_id = static_cast<uint64_t>(why.code()),
                      .tag = {}},
                     header);
  (void)SendPacket(fd, header, AsBytes(text), {});
}

bool IsStale(const UnixAddress& address) {
  const Descriptor probe(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  return connect(probe.get(), address.get(), address.length) != 0 && errno == ECONNREFUSED;
}

}  // namespace

Result<UnixListener> UnixListener::Bind(const std::string& endpoint, const std::string& flag,
                                        mode_t mode) {
  const auto address = ParseUnixAddress(endpoint);
  if (!address.ok()) return address.status();
  UnixListener listener;
  if (!address->abstract) {
    listener.lock_ =
        Descriptor(open((endpoint + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!listener.lock_.open()) return Taken(endpoint, flag, std::strerror(errno));
    if (flock(listener.lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      return Taken(endpoint, flag, "another server is alive there");
    }
    struct stat info {};
    if (lstat(endpoint.c_str(), &info) == 0) {
      if (!S_ISSOCK(info.st_mode))
        return Taken(endpoint, flag, "there is a file that is no socket");
      if (!IsStale(*address)) return Taken(endpoint, flag, "another program is alive there");
      (void)unlink(endpoint.c_str());
    }
  }
  listener.socket_ = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listener.socket_.open()) {
    return Status(Code::kUnavailable, std::string("no socket: ") + std::strerror(errno));
  }
  if (bind(listener.fd(), address->get(), address->length) != 0) {
    return Taken(endpoint, flag, std::strerror(errno));
  }
  if (!address->abstract) {
    listener.path_ = endpoint;
    // Before listen, so that nobody connects under the mask's mode.
    (void)chmod(endpoint.c_str(), mode);
  }
  if (listen(listener.fd(), kBacklog) != 0) return Taken(endpoint, flag, std::strerror(errno));
  return listener;
}

UnixListener::~UnixListener() {
  if (socket_.open() && !path_.empty()) (void)unlink(path_.c_str());
}

Result<std::unique_ptr<Acceptor>> ShmAcceptor::Create(UnixListener listener,
                                                      const SharedFiles& files, Options options) {
  std::unique_ptr<ShmAcceptor> acceptor(
      new ShmAcceptor(std::move(listener), files, std::move(options)));
  acceptor->epoll_ = Descriptor(epoll_create1(EPOLL_CLOEXEC));
  acceptor->timer_ = Descriptor(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  for (const int fd : {acceptor->listener_.fd(), acceptor->timer_.get()}) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(acceptor->epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return Status(Code::kUnavailable, std::string("no epoll: ") + std::strerror(errno) +
                                            "; raise the limit of open files (ulimit -n)");
    }
  }
  return std::unique_ptr<Acceptor>(std::move(acceptor));
}

std::unique_ptr<Connection> ShmAcceptor::Accept() {
  std::unique_ptr<Connection> connection = TryWaiting();
  if (connection == nullptr) connection = TakeNew();
  const int error = errno;
  SetTimer();
  errno = error;
  return connection;
}

std::unique_ptr<Connection> ShmAcceptor::TryWaiting() {
  const Instant now = MonotonicClock::Get().Now();
  for (size_t i = 0; i < waiting_.size();) {
    SessionTag tag;
    const Hello hello = Greet(waiting_[i], &tag);
    if (hello == Hello::kNotYet && now < waiting_[i].until) {
      ++i;
      continue;
    }
    Waiting taken = std::move(waiting_[i]);
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    if (hello != Hello::kWelcome) continue;  // closes it
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, taken.socket.get(), nullptr);
    return Finish(std::move(taken), tag);
  }
  return nullptr;
}

std::unique_ptr<Connection> ShmAcceptor::TakeNew() {
  while (true) {
    Waiting taken;
    taken.socket =
        Descriptor(accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!taken.socket.open()) return nullptr;
    const int fd = taken.socket.get();
    Status allowed = CheckPeerUser(fd, options_.allowed_users);
    if (allowed.ok()) {
      auto process = OpenPeerProcess(fd);
      allowed = process.status();
      if (process.ok()) taken.process = std::move(*process);
    }
    if (!allowed.ok()) {
      SendRefusal(fd, allowed);
      continue;
    }
    SessionTag tag;
    const Hello hello = Greet(taken, &tag);
    if (hello == Hello::kWelcome) return Finish(std::move(taken), tag);
    if (hello == Hello::kRefused) continue;
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) continue;
    taken.until = MonotonicClock::Get().Now() + kHelloTimeout;
    if (waiting_.size() == kMaxWaiting) waiting_.pop_front();
    waiting_.push_back(std::move(taken));
  }
}

ShmAcceptor::Hello ShmAcceptor::Greet(const Waiting& waiting, SessionTag* tag) {
  const int fd = waiting.socket.get();
  PacketHeaderBytes buffer;
  const ReceivedPacket received = ReceivePacket(fd, buffer, nullptr);
  if (received.bytes < 0) {
    return errno == EAGAIN || errno == EINTR ? Hello::kNotYet : Hello::kRefused;
  }
  PacketHeader header;
  ByteSpan body;
  const ByteSpan packet = ByteSpan(buffer).first(static_cast<size_t>(received.bytes));
  if (!received.whole || !DecodePacket(packet, &header, &body).ok() ||
      header.kind != PacketKind::kHello) {
    SendRefusal(fd, Status(Code::kProtocolError, "this is no hello"));
    return Hello::kRefused;
  }
  if (Status s = options_.check(header.tag); !s.ok()) {
    SendRefusal(fd, s);
    return Hello::kRefused;
  }
  const SharedFiles::Offer offer = files_.MakeOffer();
  const std::vector<std::byte> welcome = EncodeWelcome(offer.welcome);
  EncodePacketHeader({.kind = PacketKind::kWelcome,
                      .body_bytes = static_cast<uint16_t>(welcome.size()),
                      .request_id = 0,
                      .tag = header.tag},
                     buffer);
  if (SendPacket(fd, buffer, welcome, offer.descriptors) < 0) return Hello::kRefused;
  *tag = header.tag;
  return Hello::kWelcome;
}

std::unique_ptr<Connection> ShmAcceptor::Finish(Waiting waiting, const SessionTag& tag) {
  std::string name = waiting.process->Name();
  return std::make_unique<ShmConnection>(
      std::move(waiting.socket), std::move(name),
      ShmConnection::Options{
          .tag = tag, .regions = {}, .peer = std::move(waiting.process), .ready = nullptr});
}

void ShmAcceptor::SetTimer() {
  itimerspec when{};
  if (!waiting_.empty()) {
    const Duration left = waiting_.front().until - MonotonicClock::Get().Now();
    const int64_t nanos = std::max<int64_t>(left.count(), 1);
    when.it_value = {nanos / 1'000'000'000, nanos % 1'000'000'000};
  }
  (void)timerfd_settime(timer_.get(), 0, &when, nullptr);
}

}  // namespace simm::transport
