#include "client/admin.h"

#include <utility>

#include "common/rpc/dataserver_stub.h"
#include "common/rpc/manager_stub.h"
#include "common/rpc/node_stub.h"

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

Result<rpc::NodeDescription> Admin::Describe(std::chrono::milliseconds timeout) const {
  Result<rpc::NodeDescription> last = Status(Code::kInvalidArgument, "no manager is named");
  for (const std::string& address : managers_) {
    last = rpc::DescribeNode(address, timeout);
    if (last.ok()) return last;
  }
  return last;
}

Result<rpc::NodeDescription> Admin::DescribeAt(const std::string& address,
                                               std::chrono::milliseconds timeout) {
  return rpc::DescribeNode(address, timeout);
}

Result<rpc::SampleKeysReply> Admin::SampleKeys(const rpc::NodeStatus& node,
                                               const rpc::SampleKeysRequest& request,
                                               std::chrono::milliseconds timeout) {
  rpc::SampleKeysRequest addressed = request;
  addressed.expected_server = node.record.id;
  return rpc::SampleKeys(node.record.control_address, addressed, timeout);
}

}  // namespace simm
