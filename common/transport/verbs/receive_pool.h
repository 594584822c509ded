#pragma once

#include <infiniband/verbs.h>

#include <memory>
#include <vector>

#include "common/transport/verbs/device.h"
#include "common/transport/verbs/message_header.h"

namespace simm::transport {

// The shared receive queue: `depth` registered buffers of one frame each, for all lanes of a
// transport. A buffer belongs to the device until a completion names it, then to that lane, which
// gives it back with Repost. Thread-safe.
class ReceivePool {
 public:
  static Result<std::shared_ptr<ReceivePool>> Create(std::shared_ptr<Device> device,
                                                     uint32_t depth);
  ~ReceivePool();

  ibv_srq* queue() const { return queue_; }
  uint32_t depth() const { return depth_; }
  ByteSpan Buffer(uint32_t index) const { return {Slot(index), kMaxFrameBytes}; }
  // Only with a buffer that a completion has named. The queue has room for each by construction.
  void Repost(uint32_t index);

 private:
  ReceivePool(std::shared_ptr<Device> device, uint32_t depth);
  Status Start();
  std::byte* Slot(uint32_t index) const;
  int PostOne(uint32_t index);

  const std::shared_ptr<Device> device_;
  const uint32_t depth_;
  const std::unique_ptr<std::byte[]> memory_;
  ibv_mr* registration_ = nullptr;
  ibv_srq* queue_ = nullptr;
};

// In the work request id of receives, beside the buffer's index; sends have it clear.
inline constexpr uint64_t kReceiveMark = 1ULL << 63;

}  // namespace simm::transport
