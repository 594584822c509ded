#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/process.h"
#include "common/base/status.h"
#include "common/protocol/pool_layout.h"
#include "dataserver/pool.h"
#include "dataserver/pool_lock.h"

namespace simm::dataserver {

// An owned shared mapping of a file; unmapped and closed at the end.
class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(int fd) : fd_(fd) {}
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;

  void Attach(std::byte* data, size_t bytes) {
    data_ = data;
    bytes_ = bytes;
  }
  int fd() const { return fd_; }
  MutableByteSpan bytes() const { return {data_, bytes_}; }

 private:
  int fd_ = -1;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// The two mappings of a pool and the lock on their name. They are those of the server before this
// one (warm), if they have this program's layout, these sizes and an intact superblock, with the
// incarnation already one higher in it; else new ones, zero but for the superblock. A pool file is
// never truncated or laid out anew in place: others may have it mapped. Thread-compatible.
class PoolFiles {
 public:
  static Result<std::unique_ptr<PoolFiles>> Create(const PoolOptions& options,
                                                   const protocol::PoolGeometry& geometry,
                                                   const Clock& clock);

  MutableByteSpan index() const { return index_.bytes().first(index_bytes_); }
  MutableByteSpan data() const { return data_.bytes().first(data_bytes_); }
  int index_fd() const { return index_.fd(); }
  int data_fd() const { return data_.fd(); }
  const Id128& pool_id() const { return pool_id_; }
  uint64_t incarnation() const { return incarnation_; }
  // The files hold what the server before this one has left.
  bool warm() const { return warm_; }
  // Why they do not; empty when they do, or when nothing was to be expected.
  const std::string& cold_because() const { return cold_because_; }
  // Nothing that the server before this one was asked for over a network can still be written.
  bool PredecessorEnded(Instant now) const { return lock_.PredecessorEnded(now); }

  // Maps a stretch of the data that is there already, touching no content; returns where the next
  // one begins, UINT64_MAX at the end. Of use after a warm start, or without prefault.
  uint64_t PopulateSome(uint64_t from) const;

 private:
  PoolFiles() = default;
  // Empty: the old files are in use. Else why not.
  std::string OpenWarm(const PoolOptions& options, const protocol::PoolGeometry& geometry);
  std::string CheckSuperblock(const protocol::Superblock& old,
                              const protocol::PoolGeometry& geometry) const;
  Status OpenCold(const PoolOptions& options, const protocol::PoolGeometry& geometry);
  Status MakeNamed(const PoolOptions& options);
  Status MakeAnonymous(const PoolOptions& options);
  void WriteSuperblock(const protocol::PoolGeometry& geometry);

  PoolLock lock_;
  Mapping index_;
  Mapping data_;
  uint64_t index_bytes_ = 0;
  uint64_t data_bytes_ = 0;
  Id128 pool_id_;
  uint64_t incarnation_ = 1;
  bool warm_ = false;
  std::string cold_because_;
};

}  // namespace simm::dataserver
