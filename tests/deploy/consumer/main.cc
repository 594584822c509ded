// Puts a value, gets it back, and asks the manager for the cluster's status: what a program can do
// that has the installed library and its headers, and nothing else of SiMM.
#include <chrono>
#include <iostream>
#include <string>

#include "client/admin.h"
#include "client/client.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: consumer HOST:PORT\n";
    return 2;
  }
  simm::ClientOptions options;
  options.addresses = {argv[1]};
  auto client = simm::Client::Connect(options);
  if (!client.ok()) {
    std::cerr << client.status().ToString() << "\n";
    return 1;
  }
  const std::string value = "from outside the tree";
  const simm::PutItem put{.key = "consumer", .data = value.data(), .size = value.size()};
  const auto stored = (*client)->Put({&put, 1});
  std::string back(value.size(), '\0');
  const simm::GetItem get{.key = "consumer", .data = back.data(), .size = back.size()};
  const auto found = (*client)->Get({&get, 1});
  const auto cluster = simm::Admin({argv[1]}).GetStatus(std::chrono::seconds(10));
  if (!cluster.ok()) {
    std::cerr << cluster.status().ToString() << "\n";
    return 1;
  }
  std::cout << simm::CodeName(stored[0].code) << " " << simm::CodeName(found[0].code) << " " << back
            << "\n";
  return back == value ? 0 : 1;
}
