#include "common/transport/verbs/receive_pool.h"

#include <cerrno>
#include <string>

namespace simm::transport {
namespace {

constexpr size_t kSlotBytes = RoundUp(kMaxFrameBytes, 64);

}  // namespace

ReceivePool::ReceivePool(std::shared_ptr<Device> device, uint32_t depth)
    : device_(std::move(device)),
      depth_(depth),
      memory_(std::make_unique<std::byte[]>(kSlotBytes * depth)) {}

Result<std::shared_ptr<ReceivePool>> ReceivePool::Create(std::shared_ptr<Device> device,
                                                         uint32_t depth) {
  std::shared_ptr<ReceivePool> pool(new ReceivePool(std::move(device), depth));
  SIMM_RETURN_IF_ERROR(pool->Start());
  return pool;
}

ReceivePool::~ReceivePool() {
  if (queue_ != nullptr) ibv_destroy_srq(queue_);
  if (registration_ != nullptr) ibv_dereg_mr(registration_);
}

Status ReceivePool::Start() {
  // An int: ibv_reg_mr is a macro that mixes its flags with those of another enumeration.
  const int access = IBV_ACCESS_LOCAL_WRITE;
  registration_ =
      ibv_reg_mr(device_->protection_domain(), memory_.get(), kSlotBytes * depth_, access);
  if (registration_ == nullptr) {
    return VerbsError("cannot register " + FormatSize(kSlotBytes * depth_) + " to receive into",
                      errno);
  }
  ibv_srq_init_attr attributes{};
  attributes.attr.max_wr = depth_;
  attributes.attr.max_sge = 1;
  queue_ = ibv_create_srq(device_->protection_domain(), &attributes);
  if (queue_ == nullptr) return VerbsError("no shared receive queue", errno);
  for (uint32_t i = 0; i < depth_; ++i) {
    if (const int error = PostOne(i); error != 0) return VerbsError("no receive", error);
  }
  return Status::Ok();
}

std::byte* ReceivePool::Slot(uint32_t index) const {
  SIMM_CHECK(index < depth_, "a receive buffer that is not ours");
  return memory_.get() + size_t{index} * kSlotBytes;
}

int ReceivePool::PostOne(uint32_t index) {
  ibv_sge piece{reinterpret_cast<uintptr_t>(Slot(index)), static_cast<uint32_t>(kMaxFrameBytes),
                registration_->lkey};
  ibv_recv_wr request{};
  request.wr_id = kReceiveMark | index;
  request.sg_list = &piece;
  request.num_sge = 1;
  ibv_recv_wr* refused = nullptr;
  return ibv_post_srq_recv(queue_, &request, &refused);
}

// A device that refuses is a device in its last moments (reset, unplugged): its lanes fail by
// themselves, the buffer is of no more use.
void ReceivePool::Repost(uint32_t index) { (void)PostOne(index); }

}  // namespace simm::transport
