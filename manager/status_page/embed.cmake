# cmake -D FOLDER=<of page.html> -D OUTPUT=<page.cc> -P embed.cmake: puts page.css and page.js into
# page.html and that into a C++ source. One quoted argument each: semicolons stay as they are.
file(READ "${FOLDER}/page.html" page)
file(READ "${FOLDER}/page.css" style)
file(READ "${FOLDER}/page.js" script)
string(REPLACE "@STYLE@" "${style}" page "${page}")
string(REPLACE "@SCRIPT@" "${script}" page "${page}")
file(WRITE "${OUTPUT}" "#include \"manager/status_page/page.h\"\n
namespace simm::manager {
const std::string_view kPage = R\"~page~(${page})~page~\";
}  // namespace simm::manager\n")
