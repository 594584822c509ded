#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <string>
#include <vector>

namespace simm::sim {

// What would leave for the network.
inline std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!buffer.Dump(&slices).ok()) return text;
  for (const grpc::Slice& slice : slices)
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

}  // namespace simm::sim
