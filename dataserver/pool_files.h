#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/protocol/pool_layout.h"
#include "dataserver/pool.h"

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

// The two mappings of a pool, fresh, zero but for the superblock, and the lock on their name. A
// pool file is never truncated or laid out anew in place: others may have it mapped.
// Thread-compatible.
class PoolFiles {
 public:
  static Result<std::unique_ptr<PoolFiles>> Create(const PoolOptions& options,
                                                   const protocol::PoolGeometry& geometry);
  ~PoolFiles();
  PoolFiles(const PoolFiles&) = delete;
  PoolFiles& operator=(const PoolFiles&) = delete;

  MutableByteSpan index() const { return index_.bytes().first(index_bytes_); }
  MutableByteSpan data() const { return data_.bytes().first(data_bytes_); }
  int index_fd() const { return index_.fd(); }
  int data_fd() const { return data_.fd(); }
  const Id128& pool_id() const { return pool_id_; }
  uint64_t incarnation() const { return incarnation_; }

 private:
  PoolFiles() = default;
  Status LockName(const std::string& path);
  void TakeIdentity(const std::string& path);
  Status Make(const PoolOptions& options, const protocol::PoolGeometry& geometry);
  void WriteSuperblock(const protocol::PoolGeometry& geometry);

  Mapping index_;
  Mapping data_;
  uint64_t index_bytes_ = 0;
  uint64_t data_bytes_ = 0;
  Id128 pool_id_;
  uint64_t incarnation_ = 1;
  int lock_fd_ = -1;
};

}  // namespace simm::dataserver
