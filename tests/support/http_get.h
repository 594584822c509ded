#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "common/base/host_port.h"
#include "common/transport/address.h"

namespace simm {

// The answer to GET `path`, head included.
inline std::string HttpGet(const std::string& address, const std::string& path) {
  const auto resolved = transport::Resolve(*ParseHostPort(address));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&resolved->storage), resolved->length),
            0);
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[65536];
  for (ssize_t n = 0; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return answer;
}

// The value of one series, by its text up to the blank; -1: not there.
inline double Series(const std::string& scrape, const std::string& series) {
  const size_t at = scrape.find("\n" + series + " ");
  return at == std::string::npos ? -1
                                 : std::strtod(scrape.c_str() + at + series.size() + 2, nullptr);
}

}  // namespace simm
