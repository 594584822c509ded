#pragma once

#include <memory>
#include <string>

#include "manager/store/store.h"

namespace simm::manager {

// A Store of one file in a directory of its own, replaced as a whole: written beside it, synced,
// renamed, directory synced. Locks the directory for its lifetime, so that two managers cannot
// write to one store. One thread at a time.
class FileStore final : public Store {
 public:
  // Creates the directory where it is missing. kFailedPrecondition: another manager has it, or it
  // cannot be created or written; the message names the directory and the mend.
  static Result<std::unique_ptr<FileStore>> Open(const std::string& directory);
  ~FileStore() override;
  FileStore(const FileStore&) = delete;
  FileStore& operator=(const FileStore&) = delete;

  Result<std::optional<DurableState>> Load() override;
  // kUnavailable with the reason (disk full, read-only, ...); the saved state is as it was.
  Status Save(const DurableState& state) override;

  const std::string& path() const { return path_; }

 private:
  FileStore(std::string directory, int directory_fd, int lock_fd);

  const std::string directory_;
  const std::string path_;
  const int directory_fd_;
  const int lock_fd_;
};

}  // namespace simm::manager
