#include "common/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "common/config/suggest.h"

namespace simm::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

struct Fields {
  std::string listen = "0.0.0.0:30001";
  std::string http = "0.0.0.0:30080";
  std::vector<std::string> manager = {"127.0.0.1:30001"};
  uint64_t memory = 64 << 20;
  std::chrono::milliseconds heartbeat = 1s;
  std::string level = "info";
  bool json = false;
  uint32_t lanes = 4;
  std::string name;
};

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    spec_.ListenAddress("listen", &fields_.listen, false, "where to listen");
    spec_.ListenAddress("http", &fields_.http, true, "where HTTP listens");
    spec_.Addresses("manager", &fields_.manager, "managers");
    spec_.Size("memory", &fields_.memory, 1 << 20, 1ULL << 40, "memory to lend");
    spec_.DurationMs("heartbeat-ms", &fields_.heartbeat, 10ms, 60s, "heartbeat");
    spec_.Choice("log-level", &fields_.level, {"debug", "info", "warn"}, "log level");
    spec_.Bool("log-json", &fields_.json, "one JSON object a line");
    spec_.Integer<uint32_t>("lanes", &fields_.lanes, 1, 16, "connections");
    spec_.String("name", &fields_.name, "name of this server");
  }
  ~ConfigTest() override {
    if (!path_.empty()) std::remove(path_.c_str());
  }

  Result<Loaded> Load(std::vector<std::string> flags, std::vector<std::string> environment = {}) {
    std::vector<const char*> argv = {"simm-test"};
    for (const std::string& flag : flags) argv.push_back(flag.c_str());
    std::vector<const char*> variables;
    for (const std::string& variable : environment) variables.push_back(variable.c_str());
    variables.push_back(nullptr);
    return spec_.Load(static_cast<int>(argv.size()), argv.data(), variables.data());
  }
  std::string Error(std::vector<std::string> flags, std::vector<std::string> environment = {}) {
    const Result<Loaded> loaded = Load(std::move(flags), std::move(environment));
    EXPECT_FALSE(loaded.ok());
    return loaded.ok() ? "" : loaded.status().message();
  }
  const std::string& File(const std::string& text) {
    path_ = ::testing::TempDir() + "config_test." + std::to_string(getpid()) + ".yaml";
    std::ofstream(path_) << text;
    return path_;
  }

  Fields fields_;
  ConfigSpec spec_{"simm-test", "tests the configuration", "1.2.3"};
  std::string path_;
};

TEST_F(ConfigTest, DefaultsStay) {
  ASSERT_TRUE(Load({}).ok());
  EXPECT_EQ(fields_.listen, "0.0.0.0:30001");
  EXPECT_EQ(fields_.memory, 64u << 20);
  EXPECT_EQ(spec_.SourceOf("memory"), Source::kDefault);
}

TEST_F(ConfigTest, LaterSourcesWin) {
  const std::string file = File("memory: 1GiB\nlanes: 2\nheartbeat_ms: 2s\nlog-json: yes\n");
  ASSERT_TRUE(
      Load({"--config", file, "--lanes=9"}, {"SIMM_LANES=3", "SIMM_HEARTBEAT_MS=300"}).ok());
  EXPECT_EQ(fields_.memory, 1ULL << 30);
  EXPECT_EQ(fields_.lanes, 9u);
  EXPECT_EQ(fields_.heartbeat, 300ms);
  EXPECT_TRUE(fields_.json);
  EXPECT_EQ(spec_.SourceOf("memory"), Source::kFile);
  EXPECT_EQ(spec_.SourceOf("heartbeat-ms"), Source::kEnvironment);
  EXPECT_EQ(spec_.SourceOf("lanes"), Source::kFlag);
}

TEST_F(ConfigTest, FileMayBeNamedInTheEnvironment) {
  ASSERT_TRUE(Load({}, {"SIMM_CONFIG=" + File("lanes: 7\n")}).ok());
  EXPECT_EQ(fields_.lanes, 7u);
}

TEST_F(ConfigTest, AnEmptyFileIsFine) {
  EXPECT_TRUE(Load({"--config", File("")}).ok());
  EXPECT_TRUE(Load({"--config", File("# nothing\n")}).ok());
}

TEST_F(ConfigTest, FlagsInEveryForm) {
  ASSERT_TRUE(
      Load({"--log-json", "--name", "a b", "--http=off", "--manager", "a:1, [::1]:2"}).ok());
  EXPECT_TRUE(fields_.json);
  EXPECT_EQ(fields_.name, "a b");
  EXPECT_EQ(fields_.http, "off");
  EXPECT_THAT(fields_.manager, ElementsAre("a:1", "[::1]:2"));
  ASSERT_TRUE(Load({"--log-json=off"}).ok());
  EXPECT_FALSE(fields_.json);
}

TEST_F(ConfigTest, ListsInTheFile) {
  ASSERT_TRUE(Load({"--config", File("manager:\n  - a:1\n  - b:2\n")}).ok());
  EXPECT_THAT(fields_.manager, ElementsAre("a:1", "b:2"));
}

TEST_F(ConfigTest, WrongValueNamesOptionValuePlaceAndAllowed) {
  EXPECT_EQ(Error({"--lanes", "17"}),
            "lanes: '17' (from --lanes) is out of range; allowed: a whole number from 1 to 16");
  EXPECT_THAT(
      Error({}, {"SIMM_LOG_LEVEL=loud"}),
      HasSubstr("log-level: 'loud' (from SIMM_LOG_LEVEL) is not one of the choices; allowed: one "
                "of debug, info, warn"));
  const std::string file = File("lanes: 2\nmemory: lots\n");
  EXPECT_THAT(Error({"--config", file}),
              HasSubstr("memory: 'lots' (from " + file + ":2) is not a size"));
}

TEST_F(ConfigTest, WrongValueIsAnErrorEvenWhenOverridden) {
  EXPECT_THAT(Error({"--lanes", "2"}, {"SIMM_LANES=many"}), HasSubstr("SIMM_LANES"));
}

TEST_F(ConfigTest, EachTypeRefusesWhatItCannotRead) {
  EXPECT_THAT(Error({"--listen", "0.0.0.0"}), HasSubstr("not an address"));
  EXPECT_THAT(Error({"--listen", "off"}), HasSubstr("not an address"));
  EXPECT_THAT(Error({"--listen", "h:65536"}), HasSubstr("not an address"));
  EXPECT_THAT(Error({"--manager", "a:1,"}), HasSubstr("not a list of addresses"));
  EXPECT_THAT(Error({"--manager", "a:0"}), HasSubstr("not a list of addresses"));
  EXPECT_THAT(Error({"--memory", "1KiB"}), HasSubstr("out of range"));
  EXPECT_THAT(Error({"--memory", "-1"}), HasSubstr("not a size"));
  EXPECT_THAT(Error({"--heartbeat-ms", "1h"}), HasSubstr("not a duration"));
  EXPECT_THAT(Error({"--heartbeat-ms", "9223372036854775807m"}), HasSubstr("not a duration"));
  EXPECT_THAT(Error({"--lanes", "3x"}), HasSubstr("not a whole number"));
  EXPECT_THAT(Error({"--lanes", ""}), HasSubstr("not a whole number"));
  EXPECT_THAT(Error({"--log-json=perhaps"}), HasSubstr("neither true nor false"));
}

TEST_F(ConfigTest, UnknownNamesSayWhatWasMeant) {
  EXPECT_THAT(Error({"--memroy", "1GiB"}),
              HasSubstr("unknown option --memroy; did you mean memory?"));
  EXPECT_THAT(Error({"--xyzzy"}), HasSubstr("see simm-test --help"));
  EXPECT_THAT(Error({"memory"}), HasSubstr("'memory' is no option"));
  EXPECT_THAT(Error({"--config", File("\nlaens: 3\n")}),
              HasSubstr(":2: unknown option laens; did you mean"));
}

TEST_F(ConfigTest, MissingValue) {
  EXPECT_THAT(Error({"--memory"}), HasSubstr("--memory needs a value"));
}

TEST_F(ConfigTest, BadFiles) {
  EXPECT_THAT(Error({"--config", "/nonexistent/simm.yaml"}), HasSubstr("cannot be read"));
  EXPECT_THAT(Error({"--config", File("a: [")}), HasSubstr("is not YAML"));
  EXPECT_THAT(Error({"--config", File("- a\n- b\n")}), HasSubstr("must hold lines such as"));
  EXPECT_THAT(Error({"--config", File("lanes: 2\nlanes: 3\n")}), HasSubstr("twice"));
  EXPECT_THAT(Error({"--config", File("lanes: [1, 2]\n")}), HasSubstr("not a single value"));
  EXPECT_THAT(Error({"--config", File("lanes:\n")}), HasSubstr("has no value"));
}

TEST_F(ConfigTest, UnknownVariablesOnlyWarn) {
  const Result<Loaded> loaded = Load({}, {"SIMM_MEMROY=1GiB", "SIMM_MANAGER_PORT=tcp://10.0.0.1:1",
                                          "SIMM_CLUSTER_MANAGER=a:1", "HOME=/", "PATH"});
  ASSERT_TRUE(loaded.ok());
  EXPECT_THAT(loaded->warnings,
              ElementsAre(HasSubstr("SIMM_MEMROY is read by no option of simm-test; did "
                                    "you mean SIMM_MEMORY?")));
}

TEST_F(ConfigTest, RequiredOptionsAndChecks) {
  spec_.Require("name");
  spec_.Check([this] {
    return fields_.lanes == 13 ? Status(Code::kInvalidArgument, "lanes 13 brings bad luck")
                               : Status::Ok();
  });
  EXPECT_THAT(Error({}), HasSubstr("--name must be given"));
  EXPECT_EQ(Error({"--name", "a", "--lanes", "13"}), "lanes 13 brings bad luck");
  EXPECT_TRUE(Load({"--name", "a", "--lanes", "12"}).ok());
}

TEST_F(ConfigTest, HelpAndVersion) {
  const Result<Loaded> help = Load({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_TRUE(help->exit);
  for (const char* text :
       {"--memory SIZE", "[64MiB]", "--log-level debug|info|warn", "SIMM_LISTEN"}) {
    EXPECT_THAT(help->output, HasSubstr(text));
  }
  const Result<Loaded> version = Load({"--version"});
  ASSERT_TRUE(version.ok());
  EXPECT_EQ(version->output, "simm-test 1.2.3\n");
}

TEST_F(ConfigTest, PrintedConfigNamesSourcesAndLoadsAgain) {
  spec_.Require("memory");
  const Result<Loaded> printed =
      Load({"--print-config", "--name", "yes: #1", "--http=off"}, {"SIMM_LANES=5"});
  ASSERT_TRUE(printed.ok());
  EXPECT_TRUE(printed->exit);
  EXPECT_THAT(printed->output, HasSubstr("# default\n"));
  EXPECT_THAT(printed->output, HasSubstr("# env SIMM_LANES\n"));
  EXPECT_THAT(printed->output, HasSubstr("# flag --name\n"));
  fields_ = Fields();
  ASSERT_TRUE(Load({"--config", File(printed->output)}).ok());
  EXPECT_EQ(fields_.name, "yes: #1");
  EXPECT_EQ(fields_.http, "off");
  EXPECT_EQ(fields_.lanes, 5u);
  EXPECT_EQ(fields_.memory, 64u << 20);
}

TEST_F(ConfigTest, EmptyTextSurvivesPrinting) {
  const Result<Loaded> printed = Load({"--print-config"});
  ASSERT_TRUE(printed.ok());
  ASSERT_TRUE(Load({"--config", File(printed->output)}).ok());
  EXPECT_THAT(fields_.name, IsEmpty());
}

TEST(SuggestTest, NearWordsOnly) {
  EXPECT_EQ(Suggest("memroy", {"listen", "memory"}), "memory");
  EXPECT_EQ(Suggest("heart", {"heartbeat-ms", "memory"}), "heartbeat-ms");
  EXPECT_EQ(Suggest("zzzzzz", {"listen", "memory"}), "");
}

}  // namespace
}  // namespace simm::config
