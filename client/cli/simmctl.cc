#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "client/cli/session.h"
#include "common/base/log.h"
#include "common/base/version.h"

namespace {

constexpr char kFooter[] = R"(Examples:
  simmctl status                                what is there
  simmctl nodes --json | jq .nodes[].name       for scripts
  echo hello | simmctl put greeting -           store stdin
  simmctl get greeting                          print it
  simmctl get page7 page7.bin                   into a file
  simmctl exists a b c && echo "all there"
  simmctl map greeting                          which data server holds it
  simmctl --hex-key get 00ff10                  a key of any bytes
  simmctl node drain server-2                   empty it, then stop it
  simmctl events --limit 20                     what happened lately
  simmctl top                                   live; q ends it
  simmctl keys --prefix chat/ --limit 20        some of the keys
  simmctl doctor                                what is wrong, and the mend
  simmctl bench --seconds 3                     a short load
  source <(simmctl completion bash)             completion by Tab
  simmctl clear --namespace tests --yes         drop all of a namespace
  SIMM_CLUSTER_MANAGER=10.0.0.5:30001 simmctl status

Exit codes:
  0  done; every key was there
  1  a key, or one of several, was not there
  2  the command line is wrong; nothing was tried
  3  no manager and no data server answers
  4  the cluster refused or failed
  5  doctor has found something that must be mended)";

}  // namespace

int main(int argc, char** argv) {
  simm::InitLog("simmctl", "error", false);
  simm::cli::Session session;
  CLI::App app("simmctl: looks into a SiMM cluster and moves single values");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", std::string(simm::kVersion));
  app.add_option("--manager", session.manager, "Managers or data servers, HOST:PORT[,HOST:PORT..]")
      ->envname("SIMM_CLUSTER_MANAGER")
      ->capture_default_str();
  app.add_option("--namespace", session.name_space, "Keys of different namespaces never meet")
      ->capture_default_str();
  app.add_option("--timeout-ms", session.timeout_ms, "For connecting and for each call")
      ->check(CLI::Range(1, 3'600'000))
      ->capture_default_str();
  app.add_flag("--json", session.json, "One JSON object on stdout");
  app.add_flag("--hex-key", session.hex_keys, "Keys are given and shown in hexadecimal digits");
  simm::cli::AddStatus(app, session);
  simm::cli::AddNodes(app, session);
  simm::cli::AddMap(app, session);
  simm::cli::AddValues(app, session);
  simm::cli::AddKeys(app, session);
  simm::cli::AddClear(app, session);
  simm::cli::AddEvents(app, session);
  simm::cli::AddShards(app, session);
  simm::cli::AddKeyScan(app, session);
  simm::cli::AddTop(app, session);
  simm::cli::AddConfig(app, session);
  simm::cli::AddDoctor(app, session);
  simm::cli::AddBench(app, session);
  simm::cli::AddCompletion(app, session);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? simm::cli::kDone : simm::cli::kUsage;
  }
  const char* const terminal = std::getenv("TERM");
  session.colours = isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr &&
                    (terminal == nullptr || std::string_view(terminal) != "dumb");
  const int code = session.command();
  if (std::fflush(stdout) != 0) return simm::cli::kRefused;
  return code;
}
