#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/cluster_fixture.h"

namespace simm {

// What `simmctl --manager MANAGER --json WORDS` prints; it must succeed.
inline nlohmann::json Simmctl(const std::string& manager, const std::string& words) {
  const std::string command = BinDir() + "/simmctl --manager " + manager + " --json " + words;
  FILE* const out = popen(command.c_str(), "r");
  std::string text;
  char buffer[4096];
  for (size_t n = 0; (n = fread(buffer, 1, sizeof buffer, out)) > 0;) text.append(buffer, n);
  EXPECT_EQ(pclose(out), 0) << command << ": " << text;
  return nlohmann::json::parse(text);
}

}  // namespace simm
