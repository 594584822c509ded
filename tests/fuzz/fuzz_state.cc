// A manager's state file from anywhere: what is decoded must be a state that encodes again.
// Guessing a checksum is not what a fuzzer is for: it is put right. An input is either the bytes
// behind the header (first byte even), or changes to a valid file: {offset u24, byte} each (first
// byte odd).

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "manager/store/state_codec.h"

namespace {

using namespace simm;           // NOLINT
using namespace simm::manager;  // NOLINT

constexpr size_t kHeaderBytes = 24;
constexpr size_t kCrcAt = 8;
constexpr size_t kCrcStart = 12;

std::string ValidFile() {
  DurableState state = NewCluster({3, 4});
  for (ServerId id = 1; id <= 3; ++id) {
    ServerRecord server;
    server.id = id;
    server.name = "server-" + std::to_string(id);
    server.pool_id = {1, id};
    server.boot_id = {2, id};
    server.incarnation = 1;
    server.weight = 1000;
    server.control_address = "10.0.0.1:1";
    server.data_address = "10.0.0.1:2";
    state.map.servers.push_back(server);
  }
  state.next_server = 4;
  return EncodeState(state);
}

void PutRight(std::string& file) {
  const uint64_t length = file.size() - kHeaderBytes;
  std::memcpy(file.data() + 16, &length, sizeof length);
  const uint32_t crc = Crc32c(AsBytes(std::string_view(file).substr(kCrcStart)));
  std::memcpy(file.data() + kCrcAt, &crc, sizeof crc);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string valid = ValidFile();
  if (!DecodeState(valid).ok()) std::abort();
  if (size == 0) return 0;
  std::string file = valid;
  if (data[0] % 2 == 0) {
    file.resize(kHeaderBytes);
    file.append(reinterpret_cast<const char*>(data + 1), size - 1);
  } else {
    for (size_t at = 1; at + 4 <= size; at += 4) {
      const size_t offset = data[at] | size_t{data[at + 1]} << 8 | size_t{data[at + 2]} << 16;
      file[kHeaderBytes + offset % (file.size() - kHeaderBytes)] = static_cast<char>(data[at + 3]);
    }
  }
  PutRight(file);
  const auto state = DecodeState(file);
  if (!state.ok()) return 0;
  if (!DecodeState(EncodeState(*state)).ok()) std::abort();
  return 0;
}
