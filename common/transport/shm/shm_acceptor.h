#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/transport/shm/descriptor.h"
#include "common/transport/shm/shared_files.h"
#include "common/transport/shm/unix_socket.h"
#include "common/transport/transport.h"

namespace simm::transport {

// A bound Unix socket whose file and lock go with it. The lock (PATH.lock, held for life, left
// behind) is what tells a stale socket file from a live one without a race.
class UnixListener {
 public:
  // kUnavailable: taken; the message names `flag`.
  static Result<UnixListener> Bind(const std::string& endpoint, const std::string& flag,
                                   mode_t mode);
  UnixListener(UnixListener&&) = default;
  ~UnixListener();
  int fd() const { return socket_.get(); }

 private:
  UnixListener() = default;
  Descriptor lock_;
  Descriptor socket_;
  std::string path_;  // to be unlinked
};

// Takes peers that have said hello in time; those that have not wait aside, bounded in number and
// time, without holding up others. Thread-compatible.
class ShmAcceptor final : public Acceptor {
 public:
  struct Options {
    std::string endpoint;
    SessionCheck check;
    std::vector<uid_t> allowed_users;
  };
  // The files are borrowed.
  static Result<std::unique_ptr<Acceptor>> Create(UnixListener listener, const SharedFiles& files,
                                                  Options options);

  int PollFd() const override { return epoll_.get(); }
  std::unique_ptr<Connection> Accept() override;
  std::string Address() const override { return options_.endpoint; }

 private:
  struct Waiting {
    Descriptor socket;
    std::shared_ptr<PeerProcess> process;
    Instant until;
  };
  enum class Hello : uint8_t { kNotYet, kRefused, kWelcome };

  ShmAcceptor(UnixListener listener, const SharedFiles& files, Options options)
      : listener_(std::move(listener)), files_(files), options_(std::move(options)) {}
  std::unique_ptr<Connection> TryWaiting();
  std::unique_ptr<Connection> TakeNew();
  Hello Greet(const Waiting& waiting, SessionTag* tag);
  std::unique_ptr<Connection> Finish(Waiting waiting, const SessionTag& tag);
  void SetTimer();

  UnixListener listener_;
  const SharedFiles& files_;
  const Options options_;
  Descriptor epoll_;             // readable when any of the others is
  Descriptor timer_;             // wakes the owner when somebody has waited too long
  std::deque<Waiting> waiting_;  // oldest first
};

}  // namespace simm::transport
