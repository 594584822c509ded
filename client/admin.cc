#include "client/admin.h"

#include <utility>

#include "common/rpc/manager_stub.h"
#include "common/transport/address.h"

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

Result<std::vector<std::string>> ParseAddressList(const std::string& text) {
  std::vector<std::string> list;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string address = text.substr(begin, end - begin);
    const auto parsed = transport::ParseHostPort(address);
    if (!parsed.ok()) return parsed.status();
    list.push_back(address);
    begin = end + 1;
  }
  return list;
}

}  // namespace simm
