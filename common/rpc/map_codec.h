#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/routing/route_table.h"

namespace simm::rpc {

// One message of the WatchMap stream in its wire form. Exactly one of the three is set.
struct MapUpdate {
  std::shared_ptr<const RouteTable> snapshot;
  std::unique_ptr<MapDiff> diff;
  std::unique_ptr<MapVersion> up_to_date;
  bool from_manager = false;
};

std::string EncodeSnapshot(const RouteTable& table, bool from_manager);
std::string EncodeDiff(const MapDiff& diff, bool from_manager);
std::string EncodeUpToDate(const MapVersion& version, bool from_manager);
// kProtocolError: the bytes are no update, or a bound is broken; kInvalidArgument: a snapshot that
// contradicts itself. Allocates in proportion to the bytes, never to a number in them.
Result<MapUpdate> DecodeUpdate(std::string_view bytes);

}  // namespace simm::rpc
