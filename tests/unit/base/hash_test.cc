#include "common/base/hash.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/base/random.h"

namespace simm {
namespace {

// RFC 3720 B.4 and the usual check value of the polynomial.
TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(Crc32c(AsBytes("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::vector<std::byte>(32, std::byte{0})), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::vector<std::byte>(32, std::byte{0xff})), 0x62a8ab43u);
  EXPECT_EQ(Crc32c({}), 0u);
  EXPECT_EQ(Crc32c(AsBytes("6789"), Crc32c(AsBytes("12345"))), 0xe3069283u);
}

// The library's own published vectors: empty input, seed 0.
TEST(Xxh3, KnownAnswers) {
  EXPECT_EQ(Xxh3_64({}), 0x2d06800538d394c2u);
  EXPECT_EQ(Xxh3_128({}, 0), (Hash128{0x99aa06d3014798d8u, 0x6001c324468d497fu}));
}

TEST(Xxh3, AStreamInPiecesEqualsTheWhole) {
  Random random(1);
  std::vector<std::byte> bytes(100'000);
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  for (int round = 0; round < 20; ++round) {
    Xxh3Stream stream;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = std::min<size_t>(bytes.size() - at, 1 + random.Below(20'000));
      stream.Update(ByteSpan(bytes).subspan(at, n));
      at += n;
    }
    EXPECT_EQ(stream.Digest(), Xxh3_64(bytes));
    stream.Reset();
    EXPECT_EQ(stream.Digest(), Xxh3_64({}));
  }
}

}  // namespace
}  // namespace simm
