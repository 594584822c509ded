#include "dataserver/pool_files.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
#include "dataserver/memory_limit.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif

namespace simm::dataserver {

namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kPrefaultChunk = 64 << 20;
constexpr size_t kPopulateStep = 16 << 20;
constexpr unsigned kMaxPrefaultThreads = 16;

std::string Errno() { return std::strerror(errno); }

Status Unavailable(std::string message) { return Status(Code::kUnavailable, std::move(message)); }

std::string TooLittleMemory(const PoolOptions& options, const std::string& why) {
  return "not enough memory for --memory " + FormatSize(options.memory_bytes) + ": " + why +
         "; use a smaller --memory or free memory";
}

// Refuses what would end in the kernel's killer: `bytes` more than the machine or a control group
// around this process has left.
Status CheckMemory(const PoolOptions& options, uint64_t bytes) {
  const AvailableMemory available = FindAvailableMemory();
  if (bytes <= available.bytes) return Status::Ok();
  return Unavailable(TooLittleMemory(
      options, FormatSize(available.bytes) + " are available (" + available.bound + ")"));
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

// hugetlbfs gives whole huge pages only.
uint64_t MappedLength(int fd, uint64_t bytes) {
  struct statfs fs {};
  const uint64_t page = fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC
                            ? static_cast<uint64_t>(fs.f_bsize)
                            : kPageBytes;
  return RoundUp(bytes, page);
}

// Takes the descriptor over, whatever comes out.
Result<Mapping> Map(int fd, uint64_t bytes, bool reserve, const PoolOptions& options,
                    const std::string& name) {
  const uint64_t length = MappedLength(fd, bytes);
  Mapping mapping(fd);
  // posix_fallocate: a full file system is an error here, not a SIGBUS at some later put.
  if (const int failed = reserve ? posix_fallocate(fd, 0, static_cast<off_t>(length)) : 0;
      failed != 0) {
    return Unavailable(TooLittleMemory(options, "cannot reserve " + FormatSize(length) + " for " +
                                                    name + ": " + std::strerror(failed)));
  }
  // Of a file that has its size already this changes nothing.
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

uint64_t SizeOf(const std::string& path) {
  struct stat file {};
  return stat(path.c_str(), &file) == 0 ? static_cast<uint64_t>(file.st_blocks) * 512 : 0;
}

// Whether the file system has room for new files once the old data is gone: found out before it is.
Status CheckRoom(const PoolOptions& options, uint64_t bytes, const std::string& old_data) {
  const std::string folder = options.path.substr(0, options.path.rfind('/') + 1);
  struct statfs fs {};
  // No count of blocks: a tmpfs without a limit.
  if (statfs(folder.empty() ? "." : folder.c_str(), &fs) != 0 || fs.f_blocks == 0) {
    return Status::Ok();
  }
  const uint64_t room = static_cast<uint64_t>(fs.f_bavail) * static_cast<uint64_t>(fs.f_bsize);
  const uint64_t freed = SizeOf(old_data);
  if (fs.f_type == TMPFS_MAGIC)
    SIMM_RETURN_IF_ERROR(CheckMemory(options, bytes - std::min(bytes, freed)));
  if (bytes <= room + freed) return Status::Ok();
  return Unavailable(TooLittleMemory(
      options, "the file system of " + options.path + " has " + FormatSize(room + freed) +
                   " for it; the pool that is there is left as it was"));
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

Result<std::unique_ptr<PoolFiles>> PoolFiles::Create(const PoolOptions& options,
                                                     const protocol::PoolGeometry& geometry,
                                                     const Clock& clock) {
  std::unique_ptr<PoolFiles> files(new PoolFiles);
  files->pool_id_ = NewId128();
  files->index_bytes_ = geometry.index_bytes;
  files->data_bytes_ = geometry.data_bytes;
  if (!options.path.empty()) {
    SIMM_RETURN_IF_ERROR(files->lock_.Take(options.path, options.wait_for_lock, clock));
    files->cold_because_ = files->OpenWarm(options, geometry);
    if (files->warm_) return files;
  }
  if (Status status = files->OpenCold(options, geometry); !status.ok()) {
    if (!options.path.empty()) {
      for (const char* end : {".index.new", ".data.new"})
        (void)unlink((options.path + end).c_str());
    }
    return status;
  }
  return files;
}

// ---- warm

// What makes these files another program's or another pool's; "" if nothing. The identity is kept
// wherever it can be trusted, so that the manager knows the successor.
std::string PoolFiles::CheckSuperblock(const protocol::Superblock& old,
                                       const protocol::PoolGeometry& geometry) const {
  const Id128 boot = HostBootId();
  if (Id128{old.host_boot_high, old.host_boot_low} != boot) {
    return "it was made before the host was last started";
  }
  if (static_cast<uint16_t>(old.incarnation() + 1) == 0) {
    return "its generations are used up, as after every 65,536 starts";
  }
  if (old.data_bytes != geometry.data_bytes || old.index_bytes != geometry.index_bytes ||
      old.bucket_count != geometry.bucket_count || old.buckets_offset != geometry.buckets_offset ||
      old.overflow_slots != geometry.overflow_slots ||
      old.overflow_offset != geometry.overflow_offset ||
      old.lease_records != geometry.lease_records || old.leases_offset != geometry.leases_offset) {
    return "it is laid out for another --memory or --mean-value (" +
           FormatSize(old.index_bytes + old.data_bytes) + ", " + std::to_string(old.bucket_count) +
           " buckets)";
  }
  return {};
}

std::string PoolFiles::OpenWarm(const PoolOptions& options,
                                const protocol::PoolGeometry& geometry) {
  const std::string name = options.path + ".index";
  Mapping index(open(name.c_str(), O_RDWR | O_CLOEXEC));
  // A cold start that did not get through leaves the identity behind.
  const bool aside = index.fd() < 0 && errno == ENOENT;
  if (aside) index = Mapping(open((name + ".old").c_str(), O_RDONLY | O_CLOEXEC));
  if (index.fd() < 0) return errno == ENOENT ? "" : "cannot open " + name + ": " + Errno();
  protocol::Superblock old;
  const bool whole = pread(index.fd(), &old, sizeof old, 0) == ssize_t{sizeof old};
  if (!whole || old.magic != protocol::kPoolMagic) return name + " is no pool index";
  if (old.layout_fingerprint != protocol::LayoutFingerprint()) {
    return name + " has the layout of another version of this program";
  }
  if (old.crc != old.ComputeCrc() || old.incarnation() == 0) {
    return "the superblock of " + name + " is damaged";
  }
  pool_id_ = {old.pool_id_high, old.pool_id_low};
  incarnation_ = uint64_t{old.incarnation()} + 1;
  if (aside) return "the last start did not get through";
  if (std::string why = CheckSuperblock(old, geometry); !why.empty()) return why;

  Mapping data(open((options.path + ".data").c_str(), O_RDWR | O_CLOEXEC));
  if (data.fd() < 0) return "cannot open " + options.path + ".data: " + Errno();
  for (const auto& [fd, bytes] : {std::pair(index.fd(), index_bytes_), {data.fd(), data_bytes_}}) {
    struct stat file {};
    if (fstat(fd, &file) != 0 || static_cast<uint64_t>(file.st_size) != MappedLength(fd, bytes)) {
      return "one of its files has another size than its superblock says";
    }
  }
  const auto map = [&](Mapping* from, uint64_t bytes, Mapping* to) {
    // Reserving fills holes, if somebody has made any; on what is whole it would cost time.
    struct stat file {};
    const bool whole_file = fstat(from->fd(), &file) == 0 && file.st_blocks * 512 >= file.st_size;
    const int fd = fcntl(from->fd(), F_DUPFD_CLOEXEC, 0);
    Result<Mapping> mapping = Map(fd, bytes, /*reserve=*/!whole_file, options, options.path);
    if (mapping.ok()) *to = std::move(*mapping);
    return mapping.ok() ? std::string() : mapping.status().message();
  };
  if (std::string why = map(&index, index_bytes_, &index_); !why.empty()) return why;
  if (std::string why = map(&data, data_bytes_, &data_); !why.empty()) return why;
  if (options.prefault) (void)Prefault(options, index_.bytes());  // else page by page, later
  // One store: whoever is killed from here on leaves an incarnation that is not used again.
  auto* const block = reinterpret_cast<protocol::Superblock*>(index_.bytes().data());
  std::atomic_ref<uint64_t>(block->incarnation_word)
      .store(old.IncarnationWord(static_cast<uint32_t>(incarnation_)), std::memory_order_seq_cst);
  warm_ = true;
  return {};
}

uint64_t PoolFiles::PopulateSome(uint64_t from) const {
  const MutableByteSpan all = data_.bytes();
  if (from >= all.size()) return UINT64_MAX;
  const size_t bytes = std::min<size_t>(kPopulateStep, all.size() - from);
  if (madvise(all.data() + from, bytes, MADV_POPULATE_WRITE) != 0) return UINT64_MAX;
  return from + bytes < all.size() ? from + bytes : UINT64_MAX;
}

// ---- cold

Status PoolFiles::OpenCold(const PoolOptions& options, const protocol::PoolGeometry& geometry) {
  index_ = {};
  data_ = {};
  if (options.path.empty()) {
    SIMM_RETURN_IF_ERROR(MakeAnonymous(options));
    WriteSuperblock(geometry);
    return Status::Ok();
  }
  const std::string index = options.path + ".index";
  const std::string data = options.path + ".data";
  SIMM_RETURN_IF_ERROR(CheckRoom(options, index_bytes_ + data_bytes_, data));
  // The old index steps aside first: killed anywhere from here on, no later start takes it for the
  // index of the new data. Then the old data goes: on tmpfs old and new together would need twice
  // the memory. Who still has it mapped keeps it.
  (void)rename(index.c_str(), (index + ".old").c_str());
  (void)unlink(data.c_str());
  SIMM_RETURN_IF_ERROR(MakeNamed(options));
  WriteSuperblock(geometry);
  // Data first: an index never names data that is not there.
  for (const std::string& name : {data, index}) {
    if (rename((name + ".new").c_str(), name.c_str()) != 0) {
      return Unavailable("cannot rename " + name + ".new into place: " + Errno());
    }
  }
  (void)unlink((index + ".old").c_str());
  return Status::Ok();
}

Status PoolFiles::MakeNamed(const PoolOptions& options) {
  const auto make = [&](const std::string& name, uint64_t bytes, Mapping* out) -> Status {
    const int fd = NewFile(name);
    if (fd < 0) {
      return Unavailable("cannot create " + name + ": " + Errno() +
                         "; the directory must exist and be writable");
    }
    Result<Mapping> mapping = Map(fd, bytes, /*reserve=*/true, options, name);
    if (!mapping.ok()) return mapping.status();
    *out = std::move(mapping).value();
    return options.prefault ? Prefault(options, out->bytes()) : Status::Ok();
  };
  SIMM_RETURN_IF_ERROR(make(options.path + ".index.new", index_bytes_, &index_));
  return make(options.path + ".data.new", data_bytes_, &data_);
}

Status PoolFiles::MakeAnonymous(const PoolOptions& options) {
  if (options.huge_pages) {
    if (auto huge = MapHuge(data_bytes_, options, "simm-data"); huge.ok()) {
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
  if (options.prefault)
    SIMM_RETURN_IF_ERROR(CheckMemory(options, index_bytes_ + (huge ? 0 : data_bytes_)));
  const auto make = [&](const char* name, uint64_t bytes, Mapping* out) -> Status {
    const int fd = NewAnonymousFile(name);
    if (fd < 0) return Unavailable("cannot create " + std::string(name) + ": " + Errno());
    Result<Mapping> mapping = Map(fd, bytes, /*reserve=*/false, options, name);
    if (!mapping.ok()) return mapping.status();
    *out = std::move(mapping).value();
    return options.prefault ? Prefault(options, out->bytes()) : Status::Ok();
  };
  SIMM_RETURN_IF_ERROR(make("simm-index", index_bytes_, &index_));
  return huge ? Status::Ok() : make("simm-data", data_bytes_, &data_);
}

void PoolFiles::WriteSuperblock(const protocol::PoolGeometry& geometry) {
  protocol::Superblock block;
  block.layout_fingerprint = protocol::LayoutFingerprint();
  block.pool_id_high = pool_id_.high;
  block.pool_id_low = pool_id_.low;
  const Id128 boot = HostBootId();
  block.host_boot_high = boot.high;
  block.host_boot_low = boot.low;
  block.data_bytes = geometry.data_bytes;
  block.bucket_count = geometry.bucket_count;
  block.buckets_offset = geometry.buckets_offset;
  block.overflow_slots = geometry.overflow_slots;
  block.overflow_offset = geometry.overflow_offset;
  block.lease_records = geometry.lease_records;
  block.leases_offset = geometry.leases_offset;
  block.index_bytes = geometry.index_bytes;
  block.crc = block.ComputeCrc();
  block.incarnation_word = block.IncarnationWord(static_cast<uint32_t>(incarnation_));
  std::memcpy(index_.bytes().data(), &block, sizeof block);
}

}  // namespace simm::dataserver
