# Writes ${OUT} with the commit of ${SOURCE}, only when it has changed. Runs at each build.
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
                RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  set(commit "unknown")
endif()
set(text "#pragma once\n\nnamespace simm::bench {\n")
string(APPEND text "inline constexpr char kCommit[] = \"${commit}\";\n}\n")
if(EXISTS ${OUT})
  file(READ ${OUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUT} "${text}")
endif()
