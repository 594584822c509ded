#pragma once

#include <memory>
#include <vector>

#include "common/transport/transport.h"
#include "common/transport/verbs/device.h"
#include "common/transport/verbs/split_work.h"

namespace simm::transport {

// Registered memory: one registration per chunk. Immutable, thread-safe. Deregisters on
// destruction; from then on the device refuses whoever still holds its keys.
class VerbsRegion final : public LocalRegion {
 public:
  // Registers chunks of chunk_bytes (or the device's largest, if that is less), several at a time:
  // pinning costs some 0.2 s per GiB and thread. kInvalidArgument: no memory. kUnavailable: refused
  // by the system; the message says which limit and the mend.
  static Result<std::unique_ptr<LocalRegion>> Create(std::shared_ptr<Device> device,
                                                     MutableByteSpan memory, uint8_t access,
                                                     uint64_t chunk_bytes);
  ~VerbsRegion() override;

  MutableByteSpan memory() const override { return memory_; }
  RemoteRegion Describe() const override;

  const Device& device() const { return *device_; }
  // Appends what the device needs to reach `segment`; false when it is not within this memory.
  bool Resolve(const MutableSegment& segment, std::vector<LocalPiece>& pieces) const;

 private:
  struct Chunk {
    uint64_t offset = 0;
    uint64_t length = 0;
    uint32_t first_address = 0;  // the device's address of the first byte
    ibv_mr* registration = nullptr;
  };
  VerbsRegion(std::shared_ptr<Device> device, MutableByteSpan memory, uint8_t access,
              uint64_t chunk_bytes);
  int RegisterOne(Chunk& chunk) const;
  Status RegisterAll();

  const std::shared_ptr<Device> device_;
  const MutableByteSpan memory_;
  const uint8_t access_;
  const uint64_t chunk_bytes_;
  std::vector<Chunk> chunks_;
};

}  // namespace simm::transport
