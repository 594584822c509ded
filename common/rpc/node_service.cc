#include "common/rpc/node_service.h"

#include <grpcpp/grpcpp.h>

#include "common/base/host_port.h"
#include "common/rpc/channel.h"
#include "common/rpc/node_stub.h"

namespace simm::rpc {
namespace {

void Fill(const HostFacts& host, v1::HostFacts& out) {
  out.set_host_name(host.host_name);
  out.set_processors(host.processors);
  out.set_memory_bytes(host.memory_bytes);
  out.set_available_bytes(host.available_bytes);
  out.set_memlock_bytes(host.memlock_bytes);
  out.set_open_files(host.open_files);
  out.set_huge_page_bytes(host.huge_page_bytes);
  out.set_huge_pages(host.huge_pages);
  out.set_huge_pages_free(host.huge_pages_free);
  for (const NetworkInterface& entry : host.interfaces) {
    v1::NetworkInterface& to = *out.add_interfaces();
    to.set_name(entry.name);
    to.set_mtu(entry.mtu);
    to.set_up(entry.up);
  }
  for (const RdmaPort& entry : host.rdma_ports) {
    v1::RdmaPort& to = *out.add_rdma_ports();
    to.set_device(entry.device);
    to.set_port(entry.port);
    to.set_state(entry.state);
    to.set_interface(entry.interface);
    to.set_interface_mtu(entry.interface_mtu);
  }
}

HostFacts Read(const v1::HostFacts& host) {
  HostFacts out;
  out.host_name = host.host_name();
  out.processors = host.processors();
  out.memory_bytes = host.memory_bytes();
  out.available_bytes = host.available_bytes();
  out.memlock_bytes = host.memlock_bytes();
  out.open_files = host.open_files();
  out.huge_page_bytes = host.huge_page_bytes();
  out.huge_pages = host.huge_pages();
  out.huge_pages_free = host.huge_pages_free();
  for (const auto& entry : host.interfaces()) {
    out.interfaces.push_back({entry.name(), entry.mtu(), entry.up()});
  }
  for (const auto& entry : host.rdma_ports()) {
    out.rdma_ports.push_back(
        {entry.device(), entry.port(), entry.state(), entry.interface(), entry.interface_mtu()});
  }
  return out;
}

}  // namespace

grpc::Status NodeService::Describe(grpc::ServerContext*, const v1::DescribeRequest*,
                                   v1::DescribeReply* reply) {
  const NodeDescription node = describe_();
  reply->set_program(node.program);
  reply->set_version(node.version);
  reply->set_unix_ms(node.unix_ms);
  for (const OptionText& option : node.options) {
    v1::ConfigOption& to = *reply->add_options();
    to.set_name(option.name);
    to.set_value(option.value);
    to.set_source(option.source);
  }
  Fill(node.host, *reply->mutable_host());
  return grpc::Status::OK;
}

Result<NodeDescription> DescribeNode(const std::string& address, Duration timeout) {
  if (Result<HostPort> parsed = ParseHostPort(address); !parsed.ok()) return parsed.status();
  const auto stub = v1::Node::NewStub(SharedChannel(address));
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  v1::DescribeReply reply;
  const grpc::Status status = stub->Describe(&context, v1::DescribeRequest(), &reply);
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    return Status(Code::kFailedPrecondition,
                  "the program at " + address + " is older and does not say this of itself");
  }
  if (!status.ok()) return FromGrpc(status, address);
  NodeDescription node;
  node.program = reply.program();
  node.version = reply.version();
  node.unix_ms = reply.unix_ms();
  for (const auto& option : reply.options()) {
    node.options.push_back({option.name(), option.value(), option.source()});
  }
  node.host = Read(reply.host());
  return node;
}

}  // namespace simm::rpc
