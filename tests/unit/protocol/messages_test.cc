#include "common/protocol/messages.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "common/base/random.h"

namespace simm::protocol {
namespace {

const MapStamp kMap = {3, 99};
const std::string kKey(256, 'k');

KeysRequest SomeKeys(MessageType type, size_t n) {
  KeysRequest m;
  m.type = type;
  m.flags = kGetAllowShorter;
  m.namespace_id = 7;
  m.map = kMap;
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> list;
    for (size_t i = 0; i < 200; ++i) list.push_back(std::string("k\0\xff", 3) + std::to_string(i));
    return list;
  }();
  for (size_t i = 0; i < n; ++i) m.keys.push_back({keys[i], static_cast<uint32_t>(i * 1000)});
  return m;
}

PutRequest SomePut() {
  PutRequest m;
  m.mode = 1;
  m.namespace_id = 9;
  m.value_bytes = limits::kMaxValueBytes;
  m.ttl_ms = 5;
  m.depth = 12;
  m.parent = {1, 2};
  m.map = kMap;
  m.key = kKey;
  return m;
}

CommitRequest SomeCommit() {
  CommitRequest m;
  m.lease = 4;
  m.generation = 5;
  m.offset = 6;
  m.checksum = 7;
  m.map = kMap;
  m.key = kKey;
  m.value_bytes = 8;
  return m;
}

LeaseReply SomeLease() {
  LeaseReply m;
  m.code = Code::kOk;
  m.lease = 12;
  m.lane = 13;
  m.ranges = {{64, 100, 4096, 3}, {1 << 20, 200, 4096, 1}};
  return m;
}

ListReply SomeList() {
  ListReply m;
  m.code = Code::kOk;
  m.cursor = 17;
  m.map = kMap;
  m.entries = {{7, 4096, 5, 60'000, 30, "first"}, {8, limits::kMaxValueBytes, 6, 0, 40, kKey}};
  return m;
}

ReadReport SomeReport() { return {{1, 2, 3, UINT64_MAX, 5, 6, 7, 8}, {{1, 2}, {3, 4}}}; }

// Every message of the protocol, encoded, with its decoder.
struct Sample {
  std::string name;
  std::vector<std::byte> bytes;
  std::function<Status(ByteSpan)> decode;
};

template <typename M>
Sample MakeSample(const std::string& name, const M& m) {
  MessageBuffer buffer;
  const ByteSpan bytes = Encode(m, buffer);
  return {name, {bytes.begin(), bytes.end()}, [](ByteSpan body) {
            M decoded;
            return Decode(body, &decoded);
          }};
}

std::vector<Sample> Samples() {
  std::vector<Sample> samples;
  for (const MessageType type :
       {MessageType::kGet, MessageType::kExists, MessageType::kRemove, MessageType::kTouch,
        MessageType::kScrub, MessageType::kLookup, MessageType::kPin}) {
    samples.push_back(MakeSample("keys" + std::to_string(static_cast<int>(type)),
                                 SomeKeys(type, type == MessageType::kLookup ? 1 : 5)));
  }
  samples.push_back(MakeSample("record", GetRecord{.code = Code::kOk,
                                                   .index = 3,
                                                   .run = 1,
                                                   .key_bytes = 9,
                                                   .value_bytes = 77,
                                                   .checksum = 1,
                                                   .generation = 2,
                                                   .map = kMap}));
  samples.push_back(
      MakeSample("keys_reply", KeysReply{kMap, {Code::kOk, Code::kMiss, Code::kWrongOwner}}));
  samples.push_back(MakeSample("put", SomePut()));
  samples.push_back(MakeSample("put_reply", PutReply{Code::kBusy, 5, 6, kMap}));
  samples.push_back(MakeSample("list", ListRequest{3, 9, kMap}));
  samples.push_back(MakeSample("list_reply", SomeList()));
  samples.push_back(MakeSample("lease", LeaseRequest{4096, 3, 2, 77}));
  samples.push_back(MakeSample("lease_reply", SomeLease()));
  samples.push_back(MakeSample("commit", SomeCommit()));
  samples.push_back(MakeSample("return", ReturnRequest{5, {{64, 100, 4096, 3}}}));
  samples.push_back(MakeSample("return of a lane", ReturnRequest{0, {}, 77}));
  samples.push_back(MakeSample("recall", Recall{5}));
  samples.push_back(MakeSample("resolve", ResolveRequest{5, 6, 7, kMap, kKey}));
  samples.push_back(MakeSample("location", Location{Code::kOk, 2000, 64, Slot{}}));
  samples.push_back(MakeSample("touches", TouchSlots{{{1, 2}, {3, 4}}}));
  samples.push_back(MakeSample("report", SomeReport()));
  samples.push_back(MakeSample("report without touches", ReadReport{{.get_misses = 1}, {}}));
  samples.push_back(MakeSample("pin_reply", PinReply{{{Code::kOk, 100}, {Code::kMiss, 0}}}));
  MessageBuffer buffer;
  const ByteSpan ping = EncodePing({11}, buffer);
  samples.push_back({"ping", {ping.begin(), ping.end()}, [](ByteSpan body) {
                       Ping m;
                       return Decode(body, &m);
                     }});
  return samples;
}

TEST(Messages, KeysRoundTripWithAnyBytes) {
  MessageBuffer buffer;
  const KeysRequest sent = SomeKeys(MessageType::kGet, limits::kMaxKeysPerMessage);
  KeysRequest got;
  ASSERT_TRUE(Decode(Encode(sent, buffer), &got).ok());
  ASSERT_EQ(got.keys.size(), sent.keys.size());
  EXPECT_EQ(got.type, sent.type);
  EXPECT_EQ(got.flags, sent.flags);
  EXPECT_EQ(got.namespace_id, sent.namespace_id);
  EXPECT_EQ(got.map.epoch, 99u);
  for (size_t i = 0; i < sent.keys.size(); ++i) {
    EXPECT_EQ(got.keys[i].key, sent.keys[i].key);
    EXPECT_EQ(got.keys[i].capacity, sent.keys[i].capacity);
  }
}

TEST(Messages, PutAndCommitRoundTrip) {
  MessageBuffer buffer;
  PutRequest put;
  ASSERT_TRUE(Decode(Encode(SomePut(), buffer), &put).ok());
  EXPECT_EQ(put.key, kKey);
  EXPECT_EQ(put.value_bytes, limits::kMaxValueBytes);
  EXPECT_EQ(put.parent.low, 2u);
  EXPECT_EQ(put.depth, 12u);
  CommitRequest commit;
  ASSERT_TRUE(Decode(Encode(SomeCommit(), buffer), &commit).ok());
  EXPECT_EQ(commit.generation, 5u);
  EXPECT_EQ(commit.offset, 6u);
  EXPECT_EQ(commit.checksum, 7u);
  EXPECT_EQ(commit.key, kKey);
}

TEST(Messages, RepliesRoundTrip) {
  MessageBuffer buffer;
  const GetRecord sent = {.code = Code::kOk,
                          .index = 3,
                          .run = 1,
                          .key_bytes = 9,
                          .value_bytes = 77,
                          .checksum = 1,
                          .generation = 2,
                          .map = kMap};
  const ByteSpan bytes = Encode(sent, buffer);
  EXPECT_EQ(bytes.size(), kGetRecordBytes);
  GetRecord record;
  ASSERT_TRUE(Decode(bytes, &record).ok());
  EXPECT_EQ(record.index, 3);
  EXPECT_EQ(record.value_bytes, 77u);
  EXPECT_EQ(record.generation, 2u);
  LeaseReply lease;
  ASSERT_TRUE(Decode(Encode(SomeLease(), buffer), &lease).ok());
  ASSERT_EQ(lease.ranges.size(), 2u);
  EXPECT_EQ(lease.lane, 13u);
  EXPECT_EQ(lease.ranges[1].offset, 1u << 20);
  ResolveRequest resolve;
  ASSERT_TRUE(Decode(Encode(ResolveRequest{5, 6, 7, kMap, kKey}, buffer), &resolve).ok());
  EXPECT_EQ(resolve.lane, 5u);
  EXPECT_EQ(resolve.generation, 6u);
  EXPECT_EQ(resolve.namespace_id, 7);
  EXPECT_EQ(resolve.map.epoch, 99u);
  EXPECT_EQ(resolve.key, kKey);
}

TEST(Messages, ListsRoundTripAndRefuseContradictions) {
  MessageBuffer buffer;
  ListRequest request;
  ASSERT_TRUE(Decode(Encode(ListRequest{3, 9, kMap}, buffer), &request).ok());
  EXPECT_EQ(request.destination, 3u);
  EXPECT_EQ(request.cursor, 9u);
  EXPECT_EQ(request.map.epoch, 99u);
  const ByteSpan bytes = Encode(SomeList(), buffer);
  EXPECT_EQ(bytes.size(), kListReplyHeadBytes + ListedEntryBytes(5) + ListedEntryBytes(256));
  ListReply reply;
  ASSERT_TRUE(Decode(bytes, &reply).ok());
  EXPECT_FALSE(reply.done);
  EXPECT_EQ(reply.cursor, 17u);
  ASSERT_EQ(reply.entries.size(), 2u);
  EXPECT_EQ(reply.entries[0].ttl_ms, 60'000u);
  EXPECT_EQ(reply.entries[1].namespace_id, 8);
  EXPECT_EQ(reply.entries[1].value_bytes, limits::kMaxValueBytes);
  EXPECT_EQ(reply.entries[1].age_ms, 40u);
  EXPECT_EQ(reply.entries[1].key, kKey);

  const auto refused = [&](ByteSpan from, size_t at, uint8_t with) {
    std::vector<std::byte> copy(from.begin(), from.end());
    copy[at] = static_cast<std::byte>(with);
    ListRequest as_request;
    ListReply as_reply;
    return (copy[0] == static_cast<std::byte>(MessageType::kList) ? Decode(copy, &as_request)
                                                                  : Decode(copy, &as_reply))
               .code() == Code::kProtocolError;
  };
  EXPECT_TRUE(refused(Encode(ListRequest{3, 9, kMap}, buffer), 2, 0)) << "for nobody";
  EXPECT_TRUE(refused(Encode(SomeList(), buffer), 3, 2)) << "done is 0 or 1";
  EXPECT_TRUE(refused(Encode(SomeList(), buffer), 2, 8)) << "entries without a listing";
  EXPECT_TRUE(refused(Encode(SomeList(), buffer), 28, 129)) << "too many";
  EXPECT_TRUE(refused(Encode(SomeList(), buffer), 37, 0x41)) << "value above 1 GiB";
}

TEST(Messages, ReportsRoundTripAndAreNoTouches) {
  MessageBuffer buffer;
  const ByteSpan bytes = Encode(SomeReport(), buffer);
  ReadReport report;
  ASSERT_TRUE(Decode(bytes, &report).ok());
  EXPECT_EQ(report.totals, SomeReport().totals);
  ASSERT_EQ(report.touches.size(), 2u);
  EXPECT_EQ(report.touches[1].slot, 3u);
  EXPECT_EQ(report.touches[1].generation, 4u);
  // A server of before knows no such type and closes: it is sent touches as they were.
  TouchSlots touches;
  EXPECT_EQ(Decode(bytes, &touches).code(), Code::kProtocolError);
  const ByteSpan old = Encode(TouchSlots{{{1, 2}}}, buffer);
  EXPECT_EQ(std::to_integer<int>(old[0]), 21);
  EXPECT_EQ(old.size(), 2u + 2 + 12);
  EXPECT_EQ(Decode(old, &report).code(), Code::kProtocolError);
}

TEST(Messages, ALookupCarriesExactlyOneKey) {
  MessageBuffer buffer;
  const ByteSpan two = Encode(SomeKeys(MessageType::kPin, 2), buffer);
  std::vector<std::byte> copy(two.begin(), two.end());
  copy[0] = static_cast<std::byte>(MessageType::kLookup);
  KeysRequest keys;
  EXPECT_EQ(Decode(copy, &keys).code(), Code::kProtocolError);
  ASSERT_TRUE(Decode(Encode(SomeKeys(MessageType::kLookup, 1), buffer), &keys).ok());
  EXPECT_EQ(keys.keys.size(), 1u);
}

TEST(Messages, TheLongestOfEachFitIntoFourKib) {
  MessageBuffer buffer;
  TouchSlots touches;
  touches.touches.resize(kMaxSlotTouches);
  EXPECT_LE(Encode(touches, buffer).size(), limits::kMaxMessageBytes);
  ReadReport report = SomeReport();
  report.touches.resize(kMaxSlotTouches);
  EXPECT_LE(Encode(report, buffer).size(), limits::kMaxMessageBytes);
  LeaseReply lease = SomeLease();
  lease.ranges.assign(kMaxLeaseRanges, {64, 1, 64, 1});
  EXPECT_LE(Encode(lease, buffer).size(), limits::kMaxMessageBytes);
  KeysReply reply;
  reply.codes.resize(limits::kMaxKeysPerMessage);
  EXPECT_LE(Encode(reply, buffer).size(), limits::kMaxMessageBytes);
}

TEST(Messages, EveryPrefixAndEveryExtraByteIsRefused) {
  for (const Sample& sample : Samples()) {
    EXPECT_TRUE(sample.decode(sample.bytes).ok()) << sample.name;
    for (size_t n = 0; n < sample.bytes.size(); ++n) {
      EXPECT_EQ(sample.decode(ByteSpan(sample.bytes).first(n)).code(), Code::kProtocolError)
          << sample.name << n;
    }
    auto longer = sample.bytes;
    longer.push_back(std::byte{0});
    EXPECT_EQ(sample.decode(longer).code(), Code::kProtocolError) << sample.name;
  }
}

TEST(Messages, OtherTypesAndVersionsAreRefused) {
  for (const Sample& sample : Samples()) {
    auto bytes = sample.bytes;
    bytes[0] = std::byte{200};
    EXPECT_EQ(sample.decode(bytes).code(), Code::kProtocolError) << sample.name;
    bytes = sample.bytes;
    bytes[1] = std::byte{2};
    EXPECT_EQ(sample.decode(bytes).code(), Code::kProtocolError) << sample.name;
    EXPECT_FALSE(TypeOf(bytes).ok());
  }
}

TEST(Messages, ForbiddenFieldsAreRefused) {
  MessageBuffer buffer;
  const auto refuse = [&](ByteSpan bytes, size_t at, std::vector<uint8_t> with, const char* what) {
    std::vector<std::byte> copy(bytes.begin(), bytes.end());
    for (size_t i = 0; i < with.size(); ++i) copy[at + i] = static_cast<std::byte>(with[i]);
    KeysRequest keys;
    PutRequest put;
    GetRecord record;
    const auto type = static_cast<MessageType>(copy[0]);
    const Status s = type == MessageType::kPut         ? Decode(copy, &put)
                     : type == MessageType::kGetRecord ? Decode(copy, &record)
                                                       : Decode(copy, &keys);
    EXPECT_EQ(s.code(), Code::kProtocolError) << what;
  };
  refuse(Encode(SomeKeys(MessageType::kGet, 2), buffer), 2, {0, 0}, "no key");
  refuse(Encode(SomeKeys(MessageType::kGet, 2), buffer), 2, {129, 0}, "too many keys");
  refuse(Encode(SomeKeys(MessageType::kGet, 2), buffer), 24, {0, 0}, "empty key");
  refuse(Encode(SomeKeys(MessageType::kGet, 2), buffer), 24, {1, 1}, "key of 257 bytes");
  refuse(Encode(SomePut(), buffer), 2, {2}, "put mode");
  refuse(Encode(SomePut(), buffer), 6, {0, 0}, "empty key");
  refuse(Encode(SomePut(), buffer), 8, {1, 0, 0, 0x40}, "value above 1 GiB");
  const GetRecord ok = {.code = Code::kOk,
                        .index = 0,
                        .run = 1,
                        .key_bytes = 3,
                        .value_bytes = 1,
                        .checksum = 0,
                        .generation = 0,
                        .map = {}};
  refuse(Encode(ok, buffer), 2, {kMaxCode + 1}, "unknown code");
  refuse(Encode(ok, buffer), 6, {0, 0}, "empty run");
  refuse(Encode(ok, buffer), 6, {2, 0}, "a run of values");
  refuse(Encode(ok, buffer), 8, {0, 0}, "a value without a key");
}

TEST(Messages, NoiseIsSafe) {
  Random random(5);
  const auto samples = Samples();
  for (int i = 0; i < 200'000; ++i) {
    const Sample& sample = samples[random.Below(samples.size())];
    auto bytes = sample.bytes;
    for (uint64_t n = 1 + random.Below(4); n > 0; --n) {
      bytes[random.Below(bytes.size())] = static_cast<std::byte>(random());
    }
    if (random.OneIn(2)) bytes.pop_back();
    // Either is fine; what must not happen is a crash or a read outside (the sanitizers watch).
    const Code code = sample.decode(bytes).code();
    EXPECT_TRUE(code == Code::kOk || code == Code::kProtocolError);
  }
}

}  // namespace
}  // namespace simm::protocol
