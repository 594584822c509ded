#include "common/transport/shm/shared_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace simm::transport {
namespace {

// A new open file description of the same file. A duplicate would not do: it keeps the rights of
// the original, and its holder would share file locks and flags with this process.
Result<Descriptor> Reopen(int fd, int flags) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int reopened = open(path.c_str(), flags | O_CLOEXEC);
  if (reopened < 0) {
    return Status(Code::kUnavailable, "cannot open " + path + " again: " + std::strerror(errno) +
                                          "; shared memory needs /proc");
  }
  return Descriptor(reopened);
}

// file 8 bits | access 2 bits | offset 54 bits
uint64_t MakeKey(uint32_t file, uint8_t access, uint64_t offset) {
  return (uint64_t{file} << 56) | (uint64_t{access} << 54) | offset;
}

}  // namespace

Status SharedFiles::Share(int fd, MutableByteSpan mapping) {
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || mapping.empty() ||
      static_cast<uint64_t>(info.st_size) < mapping.size()) {
    return Status(Code::kInvalidArgument,
                  "only a mapping of a file (memfd, tmpfs, hugetlbfs) from its offset 0 can be "
                  "shared, and the file must be at least as long");
  }
  auto read_only = Reopen(fd, O_RDONLY);
  if (!read_only.ok()) return read_only.status();
  auto read_write = Reopen(fd, O_RDWR);
  if (!read_write.ok()) return read_write.status();
  // A peer that may write could shrink the file under us. Where the file takes seals it cannot;
  // where it does not (tmpfs, hugetlbfs), peers that may write are trusted that far.
  (void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
  MutexLock lock(mutex_);
  if (files_.size() == kMaxSharedFiles) {
    return Status(Code::kInvalidArgument,
                  "at most " + std::to_string(kMaxSharedFiles) + " files can be shared");
  }
  files_.push_back({mapping, std::move(*read_only), std::move(*read_write)});
  return Status::Ok();
}

Result<uint64_t> SharedFiles::Add(MutableByteSpan memory, uint8_t access) {
  MutexLock lock(mutex_);
  for (uint32_t i = 0; i < files_.size(); ++i) {
    const MutableByteSpan mapping = files_[i].mapping;
    if (memory.data() < mapping.data() || memory.data() >= mapping.data() + mapping.size() ||
        memory.size() > static_cast<size_t>(mapping.data() + mapping.size() - memory.data())) {
      continue;
    }
    if (regions_.size() == kMaxSharedRegions) {
      return Status(Code::kUnavailable, "at most " + std::to_string(kMaxSharedRegions) +
                                            " regions can be registered for peers");
    }
    const auto offset = static_cast<uint64_t>(memory.data() - mapping.data());
    const uint64_t key = MakeKey(i, access, offset);
    regions_.push_back({key, offset, memory.size(), i, access});
    return key;
  }
  return Status(Code::kInvalidArgument,
                "peers reach only memory of a file that ShareFile was told of: map a memfd, tmpfs "
                "or hugetlbfs file, share it, then register");
}

void SharedFiles::Remove(uint64_t key, uint64_t length) {
  MutexLock lock(mutex_);
  const auto it = std::find_if(regions_.begin(), regions_.end(), [&](const SharedRegion& r) {
    return r.key == key && r.length == length;
  });
  if (it != regions_.end()) regions_.erase(it);
}

SharedFiles::Offer SharedFiles::MakeOffer() const {
  MutexLock lock(mutex_);
  Offer offer;
  offer.welcome.boot = boot_;
  // A file goes along only if something of it may be reached, and writable only if something of it
  // may be written.
  std::vector<uint8_t> access(files_.size(), 0);
  for (const SharedRegion& region : regions_) access[region.file] |= region.access;
  std::vector<uint32_t> number(files_.size(), 0);
  for (size_t i = 0; i < files_.size(); ++i) {
    if (access[i] == 0) continue;
    number[i] = offer.welcome.files++;
    offer.descriptors.push_back(
        ((access[i] & kRemoteWrite) != 0 ? files_[i].read_write : files_[i].read_only).get());
  }
  offer.welcome.regions = regions_;
  for (SharedRegion& region : offer.welcome.regions) region.file = number[region.file];
  return offer;
}

SharedMapping::SharedMapping(std::byte* data, uint64_t bytes, bool writable)
    : data_(data),
      bytes_(bytes),
      writable_(writable),
      populated_((bytes + kPopulateBytes - 1) / kPopulateBytes) {}

SharedMapping::~SharedMapping() { munmap(data_, bytes_); }

void SharedMapping::Populate(uint64_t offset, uint64_t size) {
  for (uint64_t i = offset / kPopulateBytes; i * kPopulateBytes < offset + size; ++i) {
    if (populated_[i].exchange(true, std::memory_order_relaxed)) continue;
    const uint64_t begin = i * kPopulateBytes;
    // Kernels before 5.14 do not know it: then each page faults by itself.
    (void)madvise(data_ + begin, std::min(kPopulateBytes, bytes_ - begin),
                  writable_ ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
  }
}

Result<std::shared_ptr<SharedMapping>> MappingCache::MapFile(const Id128& boot, int fd,
                                                             bool writable) {
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size <= 0) {
    return Status(Code::kProtocolError, "the peer shares something that is no file");
  }
  const auto bytes = static_cast<uint64_t>(info.st_size);
  const Name name{boot, info.st_dev, info.st_ino, writable};
  MutexLock lock(mutex_);
  std::erase_if(mappings_, [](const auto& entry) { return entry.second.expired(); });
  if (const auto it = mappings_.find(name); it != mappings_.end()) {
    if (auto mapping = it->second.lock(); mapping && mapping->bytes() == bytes) return mapping;
  }
  void* const data = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                          MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (data == MAP_FAILED) {
    return Status(Code::kUnavailable, "cannot map " + FormatSize(bytes) +
                                          " of the server's memory: " + std::strerror(errno) +
                                          "; raise the limit of address space (ulimit -v)");
  }
  // A child of this process must not go on writing after this process is known to have ended.
  (void)madvise(data, bytes, MADV_DONTFORK);
  auto mapping = std::make_shared<SharedMapping>(static_cast<std::byte*>(data), bytes, writable);
  mappings_[name] = mapping;
  return mapping;
}

Result<std::vector<MappedRegion>> MappingCache::Map(const Welcome& welcome,
                                                    std::span<const Descriptor> descriptors) {
  if (descriptors.size() != welcome.files) {
    return Status(Code::kProtocolError, "the peer announced other files than it sent");
  }
  std::vector<uint8_t> access(welcome.files, 0);
  for (const SharedRegion& region : welcome.regions) access[region.file] |= region.access;
  std::vector<std::shared_ptr<SharedMapping>> files;
  for (size_t i = 0; i < descriptors.size(); ++i) {
    auto mapping = MapFile(welcome.boot, descriptors[i].get(), (access[i] & kRemoteWrite) != 0);
    if (!mapping.ok()) return mapping.status();
    files.push_back(std::move(*mapping));
  }
  std::vector<MappedRegion> mapped;
  for (const SharedRegion& region : welcome.regions) {
    const auto& file = files[region.file];
    if (region.offset > file->bytes() || region.length > file->bytes() - region.offset) {
      return Status(Code::kProtocolError, "the peer announced a region beyond the end of its file");
    }
    mapped.push_back({region, file});
  }
  return mapped;
}

}  // namespace simm::transport
