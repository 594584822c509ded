// Writes the seed corpora: make_seeds DIR puts well-formed messages into DIR/messages, the same as
// frames with payload (see tests/support/byte_peer.h) into DIR/stream, and a manager's state
// without its header into DIR/state, changes to a pool's index into DIR/recovery.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/protocol/messages.h"
#include "manager/store/state_codec.h"

namespace {

using namespace simm;            // NOLINT
using namespace simm::protocol;  // NOLINT

class SeedWriter {
 public:
  explicit SeedWriter(const std::string& folder) : folder_(folder) {
    std::filesystem::create_directories(folder + "/messages");
    std::filesystem::create_directories(folder + "/stream");
    std::filesystem::create_directories(folder + "/state");
    std::filesystem::create_directories(folder + "/recovery");
  }
  void Add(ByteSpan body, uint8_t payload = 0) {
    const std::string name = std::to_string(count_++);
    std::ofstream(folder_ + "/messages/" + name, std::ios::binary) << AsText(body);
    if (body.size() > 255) return;
    std::ofstream(folder_ + "/stream/" + name, std::ios::binary)
        << static_cast<char>(body.size()) << AsText(body) << static_cast<char>(payload);
  }

 private:
  const std::string folder_;
  int count_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  SeedWriter seeds(argv[1]);
  MessageBuffer buffer;
  for (const MessageType type :
       {MessageType::kGet, MessageType::kExists, MessageType::kRemove, MessageType::kTouch,
        MessageType::kScrub, MessageType::kLookup, MessageType::kPin}) {
    KeysRequest keys;
    keys.type = type;
    keys.keys = {{"a", 693}, {"key-2", 700}, {"absent", 1}};
    if (type == MessageType::kLookup) keys.keys.resize(1);
    seeds.Add(Encode(keys, buffer));
  }
  for (const uint8_t mode : {0, 1}) {
    PutRequest put;
    put.mode = mode;
    put.key = "a";
    put.value_bytes = 99 * 7;
    seeds.Add(Encode(put, buffer), 99);
  }
  seeds.Add(EncodePing({1}, buffer));
  seeds.Add(
      Encode(GetRecord{.code = Code::kOk, .key_bytes = 1, .value_bytes = 5, .map = {}}, buffer));
  seeds.Add(Encode(KeysReply{{1, 2}, {Code::kOk, Code::kMiss}}, buffer));
  seeds.Add(Encode(PutReply{Code::kOk, 0, 1, {1, 2}}, buffer));
  seeds.Add(Encode(ListRequest{3, 0, {1, 2}}, buffer));
  seeds.Add(Encode(ListReply{Code::kOk, false, 7, {1, 2}, {{0, 5, 9, 0, 30, "a"}}}, buffer));
  seeds.Add(Encode(ListReply{Code::kOk, true, 0, {1, 2}, {}}, buffer));
  seeds.Add(Encode(LeaseRequest{4096, 2}, buffer));
  seeds.Add(Encode(LeaseReply{Code::kOk, 0, 1, 2, {{64, 1, 4096, 2}}}, buffer));
  seeds.Add(Encode(ReturnRequest{1, {{64, 1, 4096, 2}}}, buffer));
  CommitRequest commit;
  commit.key = "a";
  seeds.Add(Encode(commit, buffer));
  seeds.Add(Encode(Recall{1}, buffer));
  seeds.Add(Encode(ResolveRequest{1, 2, 0, {1, 2}, "a"}, buffer));
  seeds.Add(Encode(Location{Code::kOk, 1, 64, Slot{}}, buffer));
  seeds.Add(Encode(TouchSlots{{{1, 2}}}, buffer));
  seeds.Add(Encode(ReadReport{{1, 2, 3, 4, 5, 6, 7, 8}, {{1, 2}}}, buffer));
  seeds.Add(Encode(PinReply{{{Code::kOk, 5}}}, buffer));
  const std::string state = manager::EncodeState(manager::NewCluster({3, 4}));
  std::ofstream(std::string(argv[1]) + "/state/body", std::ios::binary) << '\0' << state.substr(24);
  std::ofstream(std::string(argv[1]) + "/state/changes", std::ios::binary)
      << std::string("\1\0\0\0\1\20\0\0\377", 9);
  // A slot's word and offset, a bucket's header, the superblock.
  for (const char first : {'\0', '\1'}) {
    std::ofstream(std::string(argv[1]) + "/recovery/" + std::to_string(first), std::ios::binary)
        << first << std::string("\x40\x10\0\1\x58\x10\0\x40\0\x10\0\7\x20\0\0\1", 16);
  }
  return 0;
}
