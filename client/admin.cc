#include "client/admin.h"

#include <utility>

#include "common/rpc/manager_stub.h"

namespace simm {

Admin::Admin(std::vector<std::string> managers) : managers_(std::move(managers)) {}

Result<rpc::ClusterStatus> Admin::GetStatus(std::chrono::milliseconds timeout) const {
  auto stub = rpc::ManagerStub::Create(managers_);
  if (!stub.ok()) return stub.status();
  return (*stub)->GetStatus(timeout);
}

Status Admin::RemoveNode(const std::string& name, std::chrono::milliseconds timeout) const {
  auto stub = rpc::ManagerStub::Create(managers_);
  if (!stub.ok()) return stub.status();
  return (*stub)->RemoveNode(name, timeout);
}

}  // namespace simm
