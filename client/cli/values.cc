#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "client/cli/session.h"
#include "common/base/bytes.h"
#include "common/base/limits.h"

namespace simm::cli {
namespace {

// "-" is stdin. kTooLarge, or kInvalidArgument with the path.
Result<std::vector<char>> ReadWhole(const std::string& path) {
  std::FILE* const file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    return Status(Code::kInvalidArgument, path + ": " + std::strerror(errno));
  }
  std::vector<char> bytes;
  size_t used = 0;
  for (;;) {
    bytes.resize(used + std::max<size_t>(used, 64 << 10));
    const size_t got = std::fread(bytes.data() + used, 1, bytes.size() - used, file);
    used += got;
    if (got == 0 || used > limits::kMaxValueBytes) break;
  }
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  if (file != stdin) std::fclose(file);
  if (failed) return Status(Code::kInvalidArgument, path + ": " + std::strerror(error));
  if (used > limits::kMaxValueBytes) {
    return Status(Code::kInvalidArgument,
                  path + ": longer than " + FormatSize(limits::kMaxValueBytes));
  }
  bytes.resize(used);
  return bytes;
}

Status WriteWhole(const std::string& path, const std::vector<char>& bytes) {
  std::FILE* const file = path == "-" ? stdout : std::fopen(path.c_str(), "wb");
  if (file == nullptr) return Status(Code::kInternal, path + ": " + std::strerror(errno));
  const bool written =
      std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && std::fflush(file) == 0;
  const int error = errno;
  const bool closed = file == stdout || std::fclose(file) == 0;
  if (written && closed) return Status::Ok();
  return Status(Code::kInternal, path + ": " + std::strerror(error));
}

// What a key's failure means, for people.
Status Explain(const KeyResult& result, uint64_t bytes) {
  switch (result.code) {
    case Code::kTooLarge:
      return Status(result.code, "the value (" + FormatSize(bytes) +
                                     ") is larger than the data "
                                     "server's pool can hold; see DATA of simmctl nodes");
    case Code::kBusy:
      return Status(Code::kFailedPrecondition,
                    "the data server has no memory at this moment; try again in " +
                        std::to_string(result.retry_after_ms) + " ms");
    case Code::kUnavailable:
      return Status(Code::kFailedPrecondition,
                    "the data server of this key does not answer; see simmctl nodes");
    case Code::kDeadlineExceeded:
      return Status(Code::kFailedPrecondition, "the time ran out; see --timeout-ms");
    default:
      return Status(Code::kFailedPrecondition, std::string(CodeName(result.code)));
  }
}

int Put(const Session& session, const std::string& text, const std::string& path, bool replace,
        double ttl_s) {
  std::string key;
  if (const int code = session.ReadKey(text, &key); code != kDone) return code;
  const Result<std::vector<char>> bytes = ReadWhole(path);
  if (!bytes.ok()) return session.Fail(bytes.status());
  std::unique_ptr<Client> client;
  if (const int code = session.Connect(&client); code != kDone) return code;
  PutOptions options;
  options.deadline = session.timeout();
  options.replace = replace;
  // Never "for ever" for what was asked to end.
  if (ttl_s > 0)
    options.ttl = std::chrono::milliseconds(std::max<int64_t>(1, std::llround(ttl_s * 1000)));
  const PutItem item{key, bytes->data(), bytes->size()};
  const KeyResult result = client->Put({&item, 1}, options)[0];
  const bool kept = result.code == Code::kExists;
  if (result.code != Code::kOk && !kept) return session.Fail(Explain(result, bytes->size()));
  if (session.json) {
    session.PrintJson({{"key", session.ShowKey(key)},
                       {"bytes", bytes->size()},
                       {"result", kept ? "kept" : "stored"}});
  } else if (kept) {
    std::printf("%s is there already and keeps its value; --replace changes it\n",
                session.ShowKey(key).c_str());
  } else {
    std::printf("stored %s: %zu bytes\n", session.ShowKey(key).c_str(), bytes->size());
  }
  return kDone;
}

// The value, whatever its length: a first guess, then the length that the mismatch reports. The
// value may be replaced in between, hence a few rounds.
KeyResult GetWhole(Client& client, const Session& session, const std::string& key,
                   std::vector<char>* bytes) {
  constexpr int kRounds = 4;
  GetOptions options;
  options.deadline = session.timeout();
  options.allow_shorter = true;
  bytes->resize(64 << 10);
  KeyResult result;
  for (int round = 0; round < kRounds; ++round) {
    const GetItem item{key, bytes->data(), bytes->size()};
    result = client.Get({&item, 1}, options)[0];
    if (result.code != Code::kLengthMismatch) break;
    if (result.value_bytes > limits::kMaxValueBytes) break;
    bytes->resize(result.value_bytes);
  }
  if (result.code == Code::kOk) bytes->resize(result.value_bytes);
  return result;
}

int Get(const Session& session, const std::string& text, const std::string& path) {
  std::string key;
  if (const int code = session.ReadKey(text, &key); code != kDone) return code;
  std::unique_ptr<Client> client;
  if (const int code = session.Connect(&client); code != kDone) return code;
  std::vector<char> bytes;
  const KeyResult result = GetWhole(*client, session, key, &bytes);
  if (result.code == Code::kMiss) {
    if (session.json) session.PrintJson({{"key", session.ShowKey(key)}, {"result", "miss"}});
    std::fprintf(stderr, "simmctl: %s is not there\n", session.ShowKey(key).c_str());
    return kNotThere;
  }
  if (result.code != Code::kOk) return session.Fail(Explain(result, bytes.size()));
  nlohmann::json object = {
      {"key", session.ShowKey(key)}, {"bytes", bytes.size()}, {"result", "hit"}};
  if (!path.empty() || !session.json) {
    const Status written = WriteWhole(path.empty() ? "-" : path, bytes);
    if (!written.ok()) return session.Fail(written);
  } else {
    object["value_hex"] = ToHex(AsBytes({bytes.data(), bytes.size()}));
  }
  if (session.json && path != "-") session.PrintJson(object);
  return kDone;
}

}  // namespace

void AddValues(CLI::App& app, Session& session) {
  struct Arguments {
    std::string key, file;
    bool replace = false;
    double ttl_s = 0;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* put = app.add_subcommand("put", "Stores a file's bytes under a key");
  put->add_option("KEY", arguments->key, "The key")->required();
  put->add_option("FILE", arguments->file, "The file; - is stdin")->required();
  put->add_flag("--replace", arguments->replace, "Replace a value that is there");
  put->add_option("--ttl", arguments->ttl_s, "Seconds until the value is gone; 0: never")
      ->check(CLI::Range(0.0, 4'294'967.0));
  put->callback([&session, arguments] {
    session.command = [&session, arguments] {
      return Put(session, arguments->key, arguments->file, arguments->replace, arguments->ttl_s);
    };
  });
  CLI::App* get = app.add_subcommand("get", "Writes a key's value to a file or to stdout");
  get->add_option("KEY", arguments->key, "The key")->required();
  get->add_option("FILE", arguments->file,
                  "Where to; - or nothing is stdout (with --json and nothing: value_hex)");
  get->callback([&session, arguments] {
    session.command = [&session, arguments] {
      return Get(session, arguments->key, arguments->file);
    };
  });
}

}  // namespace simm::cli
