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

Result<rpc::DrainReply> Admin::DrainNode(const std::string& name, bool undrain,
                                         std::chrono::milliseconds timeout) const {
  auto stub = rpc::ManagerStub::Create(managers_);
  if (!stub.ok()) return stub.status();
  return (*stub)->DrainNode(name, undrain, timeout);
}

Result<std::vector<rpc::Event>> Admin::ListEvents(uint64_t after, uint32_t newest,
                                                  std::chrono::milliseconds timeout) const {
  auto stub = rpc::ManagerStub::Create(managers_);
  if (!stub.ok()) return stub.status();
  return (*stub)->ListEvents(after, newest, timeout);
}

}  // namespace simm
