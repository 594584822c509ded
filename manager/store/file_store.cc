#include "manager/store/file_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "manager/store/state_codec.h"

namespace simm::manager {
namespace {

constexpr char kStateFile[] = "state";
constexpr char kTemporaryFile[] = "state.new";
constexpr char kLockFile[] = "lock";
// Far above the largest state (4096 servers, 65536 namespaces): what is larger is no state file.
constexpr uint64_t kMaxFileBytes = 64ULL << 20;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

Status IoError(const std::string& what, int error) {
  return Status(Code::kUnavailable, what + ": " + std::strerror(error));
}

Status WriteAll(int fd, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t written = write(fd, bytes.data() + done, bytes.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return IoError("write", written < 0 ? errno : EIO);
    done += static_cast<size_t>(written);
  }
  return Status::Ok();
}

std::string HolderOf(int lock_fd) {
  std::array<char, 32> text{};
  const ssize_t size = pread(lock_fd, text.data(), text.size() - 1, 0);
  return size > 0 ? " (pid " + std::string(text.data(), static_cast<size_t>(size)) + ")" : "";
}

}  // namespace

FileStore::FileStore(std::string directory, int directory_fd, int lock_fd)
    : directory_(std::move(directory)),
      path_(directory_ + "/" + kStateFile),
      directory_fd_(directory_fd),
      lock_fd_(lock_fd) {}

FileStore::~FileStore() {
  close(lock_fd_);  // and with it the lock
  close(directory_fd_);
}

Result<std::unique_ptr<FileStore>> FileStore::Open(const std::string& directory) {
  const auto refused = [&](const std::string& what) {
    return Status(Code::kFailedPrecondition, "the state directory " + directory + " " + what);
  };
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return refused("cannot be created: " + error.message() + ". Choose another with --state");
  }
  Fd folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return refused(std::string("cannot be opened: ") + std::strerror(errno));
  Fd lock(openat(folder.get(), kLockFile, O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock.get() < 0) {
    return refused(std::string("cannot be written: ") + std::strerror(errno) +
                   ". Choose another with --state, or run as its owner");
  }
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return refused("is in use by another simm-manager" + HolderOf(lock.get()) +
                   ". Stop that one, or give this one its own with --state");
  }
  // For people only; that the lock is held does not depend on it, so a full disk is no error here.
  const std::string pid = std::to_string(getpid());
  if (ftruncate(lock.get(), 0) == 0) (void)!pwrite(lock.get(), pid.data(), pid.size(), 0);
  return std::unique_ptr<FileStore>(new FileStore(directory, folder.Release(), lock.Release()));
}

Result<std::optional<DurableState>> FileStore::Load() {
  Fd file(openat(directory_fd_, kStateFile, O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    if (errno == ENOENT) return std::optional<DurableState>();
    return IoError("cannot open " + path_, errno);
  }
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return IoError("cannot read " + path_, errno);
  std::string bytes(std::min<uint64_t>(static_cast<uint64_t>(info.st_size), kMaxFileBytes), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = read(file.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError("cannot read " + path_, errno);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  Result<DurableState> state = DecodeState(bytes);
  if (state.ok()) return std::optional<DurableState>(*std::move(state));
  if (state.code() != Code::kCorrupt) {
    return Status(state.code(), "the state file " + path_ + ": " + state.status().message());
  }
  return Status(
      Code::kFailedPrecondition,
      "the state file " + path_ + " is damaged: " + state.status().message() +
          ". Move it aside and start again: the manager then learns the newest map from the data "
          "servers that run and goes on from there. If none runs, restore it from a backup, or "
          "begin a new cluster with --new-cluster");
}

Status FileStore::Save(const DurableState& state) {
  const std::string bytes = EncodeState(state);
  const auto failed = [&](const Status& why) {
    unlinkat(directory_fd_, kTemporaryFile, 0);  // gives its blocks back where the disk is full
    return Status(Code::kUnavailable,
                  "the state cannot be saved in " + directory_ + ": " + why.message());
  };
  Fd file(openat(directory_fd_, kTemporaryFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (file.get() < 0) return failed(IoError("open", errno));
  if (Status written = WriteAll(file.get(), bytes); !written.ok()) return failed(written);
  if (fsync(file.get()) != 0) return failed(IoError("fsync", errno));
  if (renameat(directory_fd_, kTemporaryFile, directory_fd_, kStateFile) != 0) {
    return failed(IoError("rename", errno));
  }
  if (fsync(directory_fd_) != 0) return failed(IoError("fsync of the directory", errno));
  return Status::Ok();
}

}  // namespace simm::manager
