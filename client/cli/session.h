#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "client/admin.h"
#include "client/client.h"

namespace CLI {
class App;
}

namespace simm::cli {

// What simmctl ends with; printed by --help.
enum ExitCode : int {
  kDone = 0,         // done; every key was there
  kNotThere = 1,     // a key, or one of several, was not there
  kUsage = 2,        // the command line is wrong; nothing was tried
  kUnreachable = 3,  // no manager and no data server answers
  kRefused = 4,      // the cluster refused or failed
  kUnwell = 5,       // doctor has found something that must be mended
};

// The options that all commands share and what they need to run: connections made on demand and the
// two forms of output. One-thread.
class Session {
 public:
  std::string manager = "127.0.0.1:30001";
  std::string name_space = "default";
  int64_t timeout_ms = 5000;
  bool json = false;
  bool hex_keys = false;
  bool colours = false;  // stdout is a terminal, and NO_COLOR is not set

  // Set by the command that was named on the command line.
  std::function<int()> command;

  std::chrono::milliseconds timeout() const { return std::chrono::milliseconds(timeout_ms); }

  // Fills `client` or `admin`; otherwise says on stderr why not and what to do, and returns the
  // exit code.
  int Connect(std::unique_ptr<Client>* client) const;
  // The same with other options; addresses and timeout are this session's.
  int ConnectWith(ClientOptions options, std::unique_ptr<Client>* client) const;
  int OpenAdmin(std::unique_ptr<Admin>* admin) const;

  // The key's bytes as the command line gives them (text, or with --hex-key hexadecimal digits).
  // kUsage after a message: not 1 to 256 B, or not hexadecimal.
  int ReadKey(const std::string& text, std::string* key) const;

  // Says on stderr what went wrong, with what to do where the cluster is not there; the exit code.
  int Fail(const Status& status) const;
  // Asks on the terminal whether to do what `question` says. With `yes`, or after the answer "y" or
  // "yes": kDone. Otherwise, or where nobody can answer: kUsage after a message.
  int Confirm(bool yes, const std::string& question) const;
  // The text in a colour where colours are wanted.
  enum class Colour { kGood, kWarning, kBad };
  std::string Paint(const std::string& text, Colour colour) const;
  // One object on stdout.
  void PrintJson(const nlohmann::json& object) const;
  // The key for output: as it was typed.
  std::string ShowKey(const std::string& key) const;
};

// Each adds its commands to the program; they set session.command.
void AddStatus(CLI::App& app, Session& session);
void AddNodes(CLI::App& app, Session& session);
void AddMap(CLI::App& app, Session& session);
void AddValues(CLI::App& app, Session& session);
void AddKeys(CLI::App& app, Session& session);
void AddClear(CLI::App& app, Session& session);
void AddEvents(CLI::App& app, Session& session);
void AddShards(CLI::App& app, Session& session);
void AddKeyScan(CLI::App& app, Session& session);
void AddTop(CLI::App& app, Session& session);
void AddConfig(CLI::App& app, Session& session);
void AddDoctor(CLI::App& app, Session& session);
void AddBench(CLI::App& app, Session& session);
void AddCompletion(CLI::App& app, Session& session);

}  // namespace simm::cli
