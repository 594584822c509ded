#include "dataserver/pool_files.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif

namespace simm::dataserver {

namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kPrefaultChunk = 64 << 20;
constexpr unsigned kMaxPrefaultThreads = 16;

std::string Errno() { return std::strerror(errno); }

Status Unavailable(std::string message) { return Status(Code::kUnavailable, std::move(message)); }

std::string TooLittleMemory(const PoolOptions& options, const std::string& why) {
  return "not enough memory for --memory " + FormatSize(options.memory_bytes) + ": " + why +
         "; use a smaller --memory or free memory";
}

// Bytes that could be had without swapping, after the control group's limit; UINT64_MAX when
// unknown.
uint64_t AvailableMemory() {
  uint64_t available = UINT64_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string name, rest; meminfo >> name && std::getline(meminfo, rest);) {
    if (name == "MemAvailable:") available = std::strtoull(rest.c_str(), nullptr, 10) << 10;
  }
  uint64_t limit = 0;
  uint64_t used = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit &&
      std::ifstream("/sys/fs/cgroup/memory.current") >> used) {
    available = std::min(available, limit > used ? limit - used : 0);
  }
  return available;
}

// 0, or the error that touching the pages met. Without MADV_POPULATE_WRITE, which reports a lack of
// memory, a write to each page must do, which does not.
int PopulateChunk(std::byte* at, size_t bytes) {
  if (madvise(at, bytes, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return errno;
  for (size_t i = 0; i < bytes; i += kPageBytes) *reinterpret_cast<volatile char*>(at + i) = 0;
  return 0;
}

Status Prefault(const PoolOptions& options, MutableByteSpan memory) {
  std::atomic<size_t> next{0};
  std::atomic<int> error{0};
  ProgressLog progress("taking memory", memory.size());
  const auto work = [&] {
    for (;;) {
      const size_t at = next.fetch_add(kPrefaultChunk);
      if (at >= memory.size() || error.load() != 0) return;
      const size_t bytes = std::min(kPrefaultChunk, memory.size() - at);
      if (const int failed = PopulateChunk(memory.data() + at, bytes); failed != 0)
        error.store(failed);
      progress.Add(bytes);
    }
  };
  const size_t chunks = (memory.size() + kPrefaultChunk - 1) / kPrefaultChunk;
  const size_t count = std::min<size_t>(
      chunks, std::clamp(std::thread::hardware_concurrency(), 1u, kMaxPrefaultThreads));
  std::vector<std::thread> threads;
  for (size_t i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (const int failed = error.load(); failed != 0) {
    return Unavailable(TooLittleMemory(options, std::strerror(failed)));
  }
  return Status::Ok();
}

// Takes the descriptor over, whatever comes out.
Result<Mapping> Map(int fd, uint64_t bytes, bool reserve, const PoolOptions& options,
                    const std::string& name) {
  struct statfs fs {};
  // hugetlbfs gives whole huge pages only.
  const uint64_t page = fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC
                            ? static_cast<uint64_t>(fs.f_bsize)
                            : kPageBytes;
  const uint64_t length = RoundUp(bytes, page);
  Mapping mapping(fd);
  // posix_fallocate: a full file system is an error here, not a SIGBUS at some later put.
  if (const int failed = reserve ? posix_fallocate(fd, 0, static_cast<off_t>(length)) : 0;
      failed != 0) {
    return Unavailable(TooLittleMemory(options, "cannot reserve " + FormatSize(length) + " for " +
                                                    name + ": " + std::strerror(failed)));
  }
  if (!reserve && ftruncate(fd, static_cast<off_t>(length)) != 0) {
    return Unavailable(TooLittleMemory(options, "cannot size " + name + ": " + Errno()));
  }
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED)
    return Unavailable(TooLittleMemory(options, "cannot map " + name + ": " + Errno()));
  // Only a wish: many kernels refuse it for files, and nothing depends on it.
  (void)madvise(data, length, MADV_HUGEPAGE);
  mapping.Attach(static_cast<std::byte*>(data), length);
  return mapping;
}

// Sealable, so that a peer that maps it cannot cut it short (transport/shm seals it).
int NewAnonymousFile(const char* name) {
  return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

// Huge pages spare the processor and RDMA devices translations. The system's administrator sets
// them aside (vm.nr_hugepages); mapping reserves them, taking them may still meet a group's limit.
Result<Mapping> MapHuge(uint64_t bytes, const PoolOptions& options, const std::string& name) {
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
  if (fd < 0) return Unavailable("no huge pages: " + Errno());
  Result<Mapping> mapping = Map(fd, bytes, /*reserve=*/false, options, name);
  if (!mapping.ok()) return mapping;
  SIMM_RETURN_IF_ERROR(Prefault(options, mapping->bytes()));
  return mapping;
}

int NewFile(const std::string& path) {
  (void)unlink(path.c_str());  // left by a start that did not get through
  return open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

}  // namespace

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, bytes_);
  if (fd_ >= 0) close(fd_);
}
Mapping::Mapping(Mapping&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}
Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PoolFiles::~PoolFiles() {
  if (lock_fd_ >= 0) close(lock_fd_);
}

Result<std::unique_ptr<PoolFiles>> PoolFiles::Create(const PoolOptions& options,
                                                     const protocol::PoolGeometry& geometry) {
  std::unique_ptr<PoolFiles> files(new PoolFiles);
  files->pool_id_ = NewId128();
  if (!options.path.empty()) {
    SIMM_RETURN_IF_ERROR(files->LockName(options.path));
    files->TakeIdentity(options.path);
  }
  if (Status status = files->Make(options, geometry); !status.ok()) {
    if (!options.path.empty()) {
      for (const char* end : {".index.new", ".data.new"})
        (void)unlink((options.path + end).c_str());
    }
    return status;
  }
  return files;
}

Status PoolFiles::LockName(const std::string& path) {
  const std::string name = path + ".lock";
  lock_fd_ = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd_ < 0) {
    return Unavailable("cannot open the pool's lock file " + name + ": " + Errno() +
                       "; the directory must exist and be writable");
  }
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    return Unavailable("the pool is in use: " + name + " is locked by another data server" +
                       (errno == EWOULDBLOCK ? "" : " (" + Errno() + ")") +
                       "; stop that server or give this one another pool path");
  }
  return Status::Ok();
}

void PoolFiles::TakeIdentity(const std::string& path) {
  const std::string name = path + ".index";
  protocol::Superblock old;
  old.magic = 0;
  std::ifstream in(name, std::ios::binary);
  if (!in) return;
  in.read(reinterpret_cast<char*>(&old), sizeof old);
  if (in.gcount() != sizeof old || old.magic != protocol::kPoolMagic ||
      old.crc != old.ComputeCrc()) {
    SIMM_LOG_WARN("{} is no valid pool index; the pool gets a new identity", name);
    return;
  }
  pool_id_ = {old.pool_id_high, old.pool_id_low};
  incarnation_ = old.incarnation + 1;
}

Status PoolFiles::Make(const PoolOptions& options, const protocol::PoolGeometry& geometry) {
  index_bytes_ = geometry.index_bytes;
  data_bytes_ = geometry.data_bytes;
  const bool anonymous = options.path.empty();
  const std::string index_name = anonymous ? "simm-index" : options.path + ".index";
  const std::string data_name = anonymous ? "simm-data" : options.path + ".data";
  if (!anonymous) {
    // The old data first: on tmpfs old and new together would need twice the memory. Who still has
    // it mapped keeps it. The old index stays until the new one takes its name, for the identity in
    // it.
    (void)unlink(data_name.c_str());
  }
  if (anonymous && options.huge_pages) {
    if (auto huge = MapHuge(data_bytes_, options, data_name); huge.ok()) {
      data_ = std::move(huge).value();
      SIMM_LOG_INFO("the pool lies on huge pages");
    } else {
      SIMM_LOG_INFO(
          "the pool lies on ordinary pages: not enough huge ones for {} are free (sysctl "
          "vm.nr_hugepages)",
          FormatSize(data_bytes_));
    }
  }
  const bool huge = data_.fd() >= 0;
  const uint64_t needed = index_bytes_ + (huge ? 0 : data_bytes_);
  if (const uint64_t available = AvailableMemory();
      anonymous && options.prefault && needed > available) {
    return Unavailable(TooLittleMemory(options, FormatSize(available) + " are available"));
  }
  const auto map = [&](const std::string& name, uint64_t bytes, Mapping* out) -> Status {
    const std::string made = anonymous ? name : name + ".new";
    const int fd = anonymous ? NewAnonymousFile(name.c_str()) : NewFile(made);
    if (fd < 0) {
      return Unavailable("cannot create " + made + ": " + Errno() +
                         "; the directory must exist and be writable");
    }
    Result<Mapping> mapping = Map(fd, bytes, !anonymous, options, made);
    if (!mapping.ok()) return mapping.status();
    *out = std::move(mapping).value();
    return Status::Ok();
  };
  SIMM_RETURN_IF_ERROR(map(index_name, index_bytes_, &index_));
  if (!huge) SIMM_RETURN_IF_ERROR(map(data_name, data_bytes_, &data_));
  if (options.prefault) {
    SIMM_RETURN_IF_ERROR(Prefault(options, index_.bytes()));
    if (!huge) SIMM_RETURN_IF_ERROR(Prefault(options, data_.bytes()));
  }
  WriteSuperblock(geometry);
  if (anonymous) return Status::Ok();
  // Data first: an index never names data that is not there.
  for (const std::string& name : {data_name, index_name}) {
    if (rename((name + ".new").c_str(), name.c_str()) != 0) {
      return Unavailable("cannot rename " + name + ".new into place: " + Errno());
    }
  }
  return Status::Ok();
}

void PoolFiles::WriteSuperblock(const protocol::PoolGeometry& geometry) {
  protocol::Superblock block;
  block.layout_fingerprint = protocol::LayoutFingerprint();
  block.pool_id_high = pool_id_.high;
  block.pool_id_low = pool_id_.low;
  block.incarnation = incarnation_;
  block.data_bytes = geometry.data_bytes;
  block.bucket_count = geometry.bucket_count;
  block.buckets_offset = geometry.buckets_offset;
  block.overflow_slots = geometry.overflow_slots;
  block.overflow_offset = geometry.overflow_offset;
  block.lease_records = geometry.lease_records;
  block.leases_offset = geometry.leases_offset;
  block.index_bytes = geometry.index_bytes;
  block.crc = block.ComputeCrc();
  std::memcpy(index_.bytes().data(), &block, sizeof block);
}

}  // namespace simm::dataserver
