#pragma once

#include <functional>
#include <utility>

#include "common/rpc/control_types.h"
#include "proto/node.grpc.pb.h"

namespace simm::rpc {

// Hosts the Node service of a ControlServer. Thread-safe.
class NodeService final : public v1::Node::Service {
 public:
  explicit NodeService(std::function<NodeDescription()> describe)
      : describe_(std::move(describe)) {}
  grpc::Status Describe(grpc::ServerContext* context, const v1::DescribeRequest* request,
                        v1::DescribeReply* reply) override;

 private:
  const std::function<NodeDescription()> describe_;
};

}  // namespace simm::rpc
