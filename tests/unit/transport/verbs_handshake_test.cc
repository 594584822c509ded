// What arrives from a peer before and on a lane: decoded strictly, whatever it is.

#include <gtest/gtest.h>

#include <vector>

#include "common/base/random.h"
#include "common/transport/verbs/handshake.h"
#include "common/transport/verbs/message_header.h"

namespace simm::transport {
namespace {

Handshake Offer() {
  Handshake h;
  h.queue_pair = 0x123456;
  h.packet_sequence = 0xabcdef;
  h.mtu = 5;
  h.roce = true;
  h.gid = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 77, 1};
  h.reads_started = 16;
  h.reads_served = 128;
  h.window = 16;
  h.tag = {.session = 77, .incarnation = 3};
  return h;
}

Code DecodeOffer(const std::string& blob) {
  return DecodeHandshake(blob, Handshake::Kind::kOffer).code();
}

TEST(VerbsHandshake, ComesBackAsItWas) {
  const std::string blob = EncodeHandshake(Offer());
  EXPECT_EQ(blob.size(), kHandshakeBytes);
  const auto h = DecodeHandshake(blob, Handshake::Kind::kOffer);
  ASSERT_TRUE(h.ok()) << h.status().ToString();
  EXPECT_EQ(h->queue_pair, 0x123456u);
  EXPECT_EQ(h->packet_sequence, 0xabcdefu);
  EXPECT_EQ(h->mtu, 5);
  EXPECT_TRUE(h->roce);
  EXPECT_EQ(h->gid, Offer().gid);
  EXPECT_EQ(h->reads_started, 16);
  EXPECT_EQ(h->reads_served, 128);
  EXPECT_EQ(h->window, 16);
  EXPECT_EQ(h->tag.session, 77u);
  EXPECT_EQ(h->tag.incarnation, 3u);
  EXPECT_EQ(EncodeHandshake(*h), blob);
}

TEST(VerbsHandshake, AnyOtherLengthVersionOrKindIsRefused) {
  const std::string good = EncodeHandshake(Offer());
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_EQ(DecodeOffer(good.substr(0, length)), Code::kProtocolError) << length;
  }
  EXPECT_EQ(DecodeOffer(good + "x"), Code::kProtocolError);
  EXPECT_EQ(DecodeHandshake(good, Handshake::Kind::kAnswer).code(), Code::kProtocolError);
  std::string newer = good;
  newer[4] = 2;
  const auto refused = DecodeHandshake(newer, Handshake::Kind::kOffer);
  EXPECT_EQ(refused.code(), Code::kProtocolError);
  EXPECT_NE(refused.status().message().find("version 2"), std::string::npos);
}

TEST(VerbsHandshake, FieldsBeyondTheirRangeAreRefused) {
  const auto refused = [](auto change) {
    Handshake h = Offer();
    change(h);
    return DecodeOffer(EncodeHandshake(h)) == Code::kProtocolError;
  };
  EXPECT_TRUE(refused([](Handshake& h) { h.queue_pair = 0; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.queue_pair = 1 << 24; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.packet_sequence = 1 << 24; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.mtu = 0; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.mtu = 6; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.gid = {}; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.roce = false; })) << "InfiniBand without a LID";
  EXPECT_TRUE(refused([](Handshake& h) { h.reads_served = 0; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.reads_started = 0; }));
  EXPECT_TRUE(refused([](Handshake& h) { h.window = 0; }));
  EXPECT_FALSE(refused([](Handshake&) {}));
}

TEST(VerbsHandshake, GarbageIsRefusedAndNeverReadBeyond) {
  Random random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::string blob(random.Below(2 * kHandshakeBytes), '\0');
    for (char& c : blob) c = static_cast<char>(random());
    EXPECT_NE(DecodeOffer(blob), Code::kOk);
    std::string bent = EncodeHandshake(Offer());
    bent[random.Below(bent.size())] = static_cast<char>(random());
    (void)DecodeOffer(bent);  // may be valid; must not read beyond
  }
}

std::vector<std::byte> Frame(FrameKind kind, size_t body_bytes) {
  std::vector<std::byte> frame(kMessageHeaderBytes + body_bytes);
  MessageHeader header;
  header.kind = kind;
  header.body_bytes = static_cast<uint16_t>(body_bytes);
  header.request_id = 42;
  header.tag = {.session = 7, .incarnation = 9};
  EncodeMessageHeader(header, frame);
  SetConsumed(frame, 0xfffffff0u);
  return frame;
}

TEST(VerbsMessageHeader, ComesBackAsItWas) {
  const auto header = DecodeMessageHeader(Frame(FrameKind::kMessage, 4096));
  ASSERT_TRUE(header.ok()) << header.status().ToString();
  EXPECT_EQ(header->kind, FrameKind::kMessage);
  EXPECT_EQ(header->body_bytes, 4096);
  EXPECT_EQ(header->request_id, 42u);
  EXPECT_EQ(header->tag.session, 7u);
  EXPECT_EQ(header->tag.incarnation, 9u);
  EXPECT_EQ(header->consumed, 0xfffffff0u);
  EXPECT_TRUE(DecodeMessageHeader(Frame(FrameKind::kCredit, 0)).ok());
  EXPECT_TRUE(DecodeMessageHeader(Frame(FrameKind::kGoodbye, 0)).ok());
}

TEST(VerbsMessageHeader, EveryByteMustBeAccountedFor) {
  EXPECT_FALSE(DecodeMessageHeader(Frame(FrameKind::kMessage, 0)).ok());
  EXPECT_FALSE(DecodeMessageHeader(Frame(FrameKind::kCredit, 1)).ok());
  EXPECT_FALSE(DecodeMessageHeader(Frame(static_cast<FrameKind>(4), 0)).ok());
  EXPECT_FALSE(DecodeMessageHeader(Frame(FrameKind::kMessage, 4097)).ok());
  const auto good = Frame(FrameKind::kMessage, 10);
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_EQ(DecodeMessageHeader(ByteSpan(good).first(length)).code(), Code::kProtocolError);
  }
  auto longer = good;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(DecodeMessageHeader(longer).ok());
  for (const size_t place : {0, 4, 5, 6, 36}) {
    auto bent = good;
    bent[place] ^= std::byte{0x40};
    EXPECT_FALSE(DecodeMessageHeader(bent).ok()) << place;
  }
}

}  // namespace
}  // namespace simm::transport
