#pragma once

#include "common/base/status.h"
#include "common/routing/route_table.h"
#include "common/rpc/control_types.h"
#include "common/rpc/map_codec.h"
#include "proto/dataserver.pb.h"
#include "proto/manager.pb.h"
#include "proto/map.pb.h"
#include "proto/types.pb.h"

// Inside common/rpc only: generated messages <-> plain structs. What has no bound in its type is
// checked where it is used (membership, RouteTable); what has one is checked here.
namespace simm::rpc {

v1::Id128 ToProto(const Id128& id);
v1::MapVersion ToProto(const MapVersion& version);
v1::ServerRecord ToProto(const ServerRecord& record);
v1::ServerStats ToProto(const ServerStats& stats);
v1::MigrationProgress ToProto(const MigrationProgress& progress);
v1::Event ToProto(const Event& event);
v1::NodeStatus ToProto(const NodeStatus& node);
v1::RegisterRequest ToProto(const RegisterRequest& request);
v1::RegisterReply ToProto(const RegisterReply& reply);
v1::HeartbeatRequest ToProto(const HeartbeatRequest& request);
v1::HeartbeatReply ToProto(const HeartbeatReply& reply);
v1::ClusterStatus ToProto(const ClusterStatus& status);
v1::HandshakeRequest ToProto(const HandshakeRequest& request);
v1::HandshakeReply ToProto(const HandshakeReply& reply);
v1::ClearNamespaceRequest ToProto(const ClearNamespaceRequest& request);

Id128 FromProto(const v1::Id128& id);
MapVersion FromProto(const v1::MapVersion& version);
ServerRecord FromProto(const v1::ServerRecord& record);
ServerStats FromProto(const v1::ServerStats& stats);
MigrationProgress FromProto(const v1::MigrationProgress& progress);
Event FromProto(const v1::Event& event);
NodeStatus FromProto(const v1::NodeStatus& node);
RegisterRequest FromProto(const v1::RegisterRequest& request);
RegisterReply FromProto(const v1::RegisterReply& reply);
HeartbeatRequest FromProto(const v1::HeartbeatRequest& request);
HeartbeatReply FromProto(const v1::HeartbeatReply& reply);
ClusterStatus FromProto(const v1::ClusterStatus& status);
HandshakeRequest FromProto(const v1::HandshakeRequest& request);
HandshakeReply FromProto(const v1::HandshakeReply& reply);
ClearNamespaceRequest FromProto(const v1::ClearNamespaceRequest& request);

// As DecodeUpdate of map_codec.h, of a message that is parsed already.
Result<MapUpdate> FromProto(const v1::MapUpdate& update);

}  // namespace simm::rpc
