#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/transport/shm/descriptor.h"
#include "common/transport/shm/packet.h"

namespace simm::transport {

// Server: the files whose memory peers may map, and the registered regions in them. Thread-safe.
class SharedFiles {
 public:
  SharedFiles() : boot_(NewId128()) {}

  // See ShmTransport::ShareFile.
  Status Share(int fd, MutableByteSpan mapping);
  // The new region's key. kInvalidArgument: not within a shared file.
  Result<uint64_t> Add(MutableByteSpan memory, uint8_t access);
  void Remove(uint64_t key, uint64_t length);

  // What a peer is told and given. The descriptors are borrowed from this object.
  struct Offer {
    Welcome welcome;
    std::vector<int> descriptors;
  };
  Offer MakeOffer() const;

 private:
  struct File {
    MutableByteSpan mapping;
    Descriptor read_only;
    Descriptor read_write;
  };

  const Id128 boot_;
  mutable Mutex mutex_;
  std::vector<File> files_ SIMM_GUARDED_BY(mutex_);  // never shrinks
  std::vector<SharedRegion> regions_ SIMM_GUARDED_BY(mutex_);
};

// Client: a whole file of the server, mapped. Unmapped with its last owner. Loads from it cannot
// raise SIGBUS, since a pool file is never truncated (DESIGN 7). Thread-safe.
class SharedMapping {
 public:
  SharedMapping(std::byte* data, uint64_t bytes, bool writable);
  ~SharedMapping();
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;
  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

  // Before a long copy: the page tables of this range are filled in one system call for 2 MiB, once
  // for each. Fault by fault a first write took longer than the copy itself: .3 us for 4 KiB.
  void Populate(uint64_t offset, uint64_t size);

 private:
  static constexpr uint64_t kPopulateBytes = 2 << 20;

  std::byte* const data_;
  const uint64_t bytes_;
  const bool writable_;
  std::vector<std::atomic<bool>> populated_;  // of each kPopulateBytes
};

// A region that a lane can reach.
struct MappedRegion {
  SharedRegion region;
  std::shared_ptr<SharedMapping> mapping;
};

// Client: all lanes to a server share one mapping of each of its files. Thread-safe.
class MappingCache {
 public:
  // Checks the table against the files' true sizes: nothing that the peer says about lengths is
  // believed. kProtocolError: it does not fit. kUnavailable: the system refuses to map.
  Result<std::vector<MappedRegion>> Map(const Welcome& welcome,
                                        std::span<const Descriptor> descriptors);

 private:
  // Boot id, device, inode, writable: a peer that borrows another's boot id gets no other's file.
  using Name = std::tuple<Id128, dev_t, ino_t, bool>;
  Result<std::shared_ptr<SharedMapping>> MapFile(const Id128& boot, int fd, bool writable);

  Mutex mutex_;
  std::map<Name, std::weak_ptr<SharedMapping>> mappings_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::transport
