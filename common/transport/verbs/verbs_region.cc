#include "common/transport/verbs/verbs_region.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>

#include "common/base/log.h"

namespace simm::transport {
namespace {

constexpr uint64_t kMinChunkBytes = 1 << 21;  // a huge page
constexpr unsigned kMaxThreads = 8;           // beyond it the kernel's locks are the limit

// The device's address of a chunk's first byte keeps the low bits of the pointer: with equal
// alignment the device can map huge pages as such.
constexpr uint64_t kAlignmentMask = (1ULL << 30) - 1;

int AccessFlags(uint8_t access) {
  int flags = IBV_ACCESS_LOCAL_WRITE;
  if ((access & kRemoteRead) != 0) flags |= IBV_ACCESS_REMOTE_READ;
  if ((access & kRemoteWrite) != 0) flags |= IBV_ACCESS_REMOTE_WRITE;
  return flags;
}

}  // namespace

VerbsRegion::VerbsRegion(std::shared_ptr<Device> device, MutableByteSpan memory, uint8_t access,
                         uint64_t chunk_bytes)
    : device_(std::move(device)), memory_(memory), access_(access), chunk_bytes_(chunk_bytes) {
  for (uint64_t at = 0; at < memory_.size(); at += chunk_bytes_) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data() + at);
    chunks_.push_back({at, std::min<uint64_t>(chunk_bytes_, memory_.size() - at),
                       static_cast<uint32_t>(address & kAlignmentMask), nullptr});
  }
}

VerbsRegion::~VerbsRegion() {
  for (const Chunk& chunk : chunks_) {
    if (chunk.registration != nullptr) ibv_dereg_mr(chunk.registration);
  }
}

Result<std::unique_ptr<LocalRegion>> VerbsRegion::Create(std::shared_ptr<Device> device,
                                                         MutableByteSpan memory, uint8_t access,
                                                         uint64_t chunk_bytes) {
  if (memory.empty()) return Status(Code::kInvalidArgument, "no memory to register");
  const uint64_t largest = std::min<uint64_t>(chunk_bytes, device->limits().max_mr_size);
  const uint64_t whole = std::max(kMinChunkBytes, largest / kMinChunkBytes * kMinChunkBytes);
  std::unique_ptr<VerbsRegion> region(new VerbsRegion(std::move(device), memory, access, whole));
  SIMM_RETURN_IF_ERROR(region->RegisterAll());
  return std::unique_ptr<LocalRegion>(std::move(region));
}

// 0 or an errno.
int VerbsRegion::RegisterOne(Chunk& chunk) const {
  chunk.registration =
      ibv_reg_mr_iova(device_->protection_domain(), memory_.data() + chunk.offset, chunk.length,
                      chunk.first_address, static_cast<unsigned>(AccessFlags(access_)));
  return chunk.registration != nullptr ? 0 : errno;
}

Status VerbsRegion::RegisterAll() {
  std::atomic<size_t> next{0};
  std::atomic<int> error{0};
  ProgressLog progress("registering with " + device_->name(), memory_.size());
  const auto work = [&] {
    for (size_t i = next++; i < chunks_.size() && error == 0; i = next++) {
      if (const int failed = RegisterOne(chunks_[i]); failed != 0) error = failed;
      progress.Add(chunks_[i].length);
    }
  };
  const size_t wanted = std::min<size_t>(
      {chunks_.size(), kMaxThreads, std::max(1u, std::thread::hardware_concurrency())});
  std::vector<std::thread> others;
  for (size_t i = 1; i < wanted; ++i) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  if (error == 0) return Status::Ok();
  return VerbsError("cannot register " + FormatSize(memory_.size()) + " with " + device_->name(),
                    error);
}

RemoteRegion VerbsRegion::Describe() const {
  RemoteRegion region;
  if ((access_ & (kRemoteRead | kRemoteWrite)) == 0) return region;
  for (const Chunk& chunk : chunks_) {
    region.chunks.push_back(
        {chunk.offset, chunk.length, MakeChunkKey(chunk.registration->rkey, chunk.first_address)});
  }
  return region;
}

bool VerbsRegion::Resolve(const MutableSegment& segment, std::vector<LocalPiece>& pieces) const {
  const auto begin = reinterpret_cast<uintptr_t>(memory_.data());
  const auto from = reinterpret_cast<uintptr_t>(segment.data);
  if (from < begin || from - begin > memory_.size() ||
      segment.size > memory_.size() - (from - begin)) {
    return false;
  }
  for (uint64_t at = from - begin, left = segment.size; left > 0;) {
    const Chunk& chunk = chunks_[at / chunk_bytes_];
    const uint64_t bytes = std::min(left, chunk.offset + chunk.length - at);
    pieces.push_back({chunk.first_address + (at - chunk.offset), bytes, chunk.registration->lkey});
    at += bytes;
    left -= bytes;
  }
  return true;
}

}  // namespace simm::transport
