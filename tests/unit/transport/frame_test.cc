#include "common/transport/tcp/frame.h"

#include <gtest/gtest.h>

#include "common/base/hash.h"
#include "common/base/random.h"

namespace simm::transport {
namespace {

const FrameHeader kHeader = {.body_bytes = 100,
                             .has_trailer = true,
                             .request_id = 0x1122334455667788,
                             .session = 42,
                             .incarnation = 7,
                             .payload_bytes = limits::kMaxValueBytes,
                             .body_crc = 0xdeadbeef};

// Encodes with the checksum made right again after `change`.
template <typename Change>
Status DecodeChanged(Change change) {
  FrameHeaderBytes bytes;
  EncodeFrameHeader(kHeader, bytes);
  change(bytes);
  const uint32_t crc = Crc32c(ByteSpan(bytes).first(kFrameHeaderBytes - 4));
  std::memcpy(bytes.data() + kFrameHeaderBytes - 4, &crc, sizeof crc);
  FrameHeader header;
  return DecodeFrameHeader(bytes, &header);
}

TEST(Frame, RoundTrip) {
  FrameHeaderBytes bytes;
  EncodeFrameHeader(kHeader, bytes);
  FrameHeader got;
  ASSERT_TRUE(DecodeFrameHeader(bytes, &got).ok());
  EXPECT_EQ(got.body_bytes, kHeader.body_bytes);
  EXPECT_EQ(got.has_trailer, kHeader.has_trailer);
  EXPECT_EQ(got.request_id, kHeader.request_id);
  EXPECT_EQ(got.session, kHeader.session);
  EXPECT_EQ(got.incarnation, kHeader.incarnation);
  EXPECT_EQ(got.payload_bytes, kHeader.payload_bytes);
  EXPECT_EQ(got.body_crc, kHeader.body_crc);
}

TEST(Frame, EveryFlippedBitIsNoticed) {
  FrameHeaderBytes bytes;
  EncodeFrameHeader(kHeader, bytes);
  for (size_t bit = 0; bit < kFrameHeaderBytes * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    FrameHeader got;
    EXPECT_EQ(DecodeFrameHeader(bytes, &got).code(), Code::kProtocolError) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
}

TEST(Frame, ForbiddenContentIsRefusedEvenWithARightChecksum) {
  EXPECT_TRUE(DecodeChanged([](auto&) {}).ok());
  EXPECT_FALSE(DecodeChanged([](auto& b) { b[4] = std::byte{9}; }).ok()) << "version";
  EXPECT_FALSE(DecodeChanged([](auto& b) { b[5] = std::byte{2}; }).ok()) << "flags";
  EXPECT_FALSE(DecodeChanged([](auto& b) { b[6] = b[7] = std::byte{0}; }).ok()) << "empty body";
  EXPECT_FALSE(DecodeChanged([](auto& b) { b[6] = b[7] = std::byte{0xff}; }).ok())
      << "body of 64 KiB";
  EXPECT_FALSE(DecodeChanged([](auto& b) { b[31] = std::byte{0x80}; }).ok()) << "payload of 2^63";
  EXPECT_FALSE(DecodeChanged([](auto& b) { b[40] = std::byte{1}; }).ok()) << "reserved";
}

TEST(Frame, NoiseIsRefused) {
  Random random(1);
  for (int i = 0; i < 10000; ++i) {
    FrameHeaderBytes bytes;
    for (auto& b : bytes) b = static_cast<std::byte>(random());
    FrameHeader header;
    EXPECT_FALSE(DecodeFrameHeader(bytes, &header).ok());
  }
}

}  // namespace
}  // namespace simm::transport
