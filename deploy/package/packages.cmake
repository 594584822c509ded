# Debian packages: `cpack -G DEB` in the build folder. What the programs link is found by
# dpkg-shlibdeps; what is said here is the rest.
set(etc /etc/simm)  # not below the prefix, as the units say
set(config ${CMAKE_SOURCE_DIR}/deploy/config)
set(units ${CMAKE_SOURCE_DIR}/deploy/systemd)

install(FILES ${units}/simm.sysusers DESTINATION /usr/lib/sysusers.d RENAME simm.conf
        COMPONENT common)
install(FILES ${units}/simm.tmpfiles DESTINATION /usr/lib/tmpfiles.d RENAME simm.conf
        COMPONENT common)
foreach(part manager dataserver)
  install(FILES ${units}/simm-${part}.service DESTINATION /usr/lib/systemd/system
          COMPONENT ${part})
  install(FILES ${config}/${part}.yaml ${units}/${part}.env DESTINATION ${etc} COMPONENT ${part})
endforeach()
install(FILES ${units}/dev-shm-simm.mount DESTINATION /usr/lib/systemd/system COMPONENT dataserver)
install(PROGRAMS ${CMAKE_SOURCE_DIR}/deploy/size.py DESTINATION bin RENAME simm-size
        COMPONENT tools)

# Manual pages are made of what --help says.
find_program(HELP2MAN help2man)
find_package(Python3 COMPONENTS Interpreter)
set(pages ${CMAKE_CURRENT_BINARY_DIR}/man)
if(HELP2MAN AND Python3_FOUND AND NOT SIMM_SANITIZE)
  set(documented simm-manager simm-dataserver simmctl)
  if(TARGET simm-bench)
    list(APPEND documented simm-bench)
  endif()
  set(writer ${CMAKE_CURRENT_SOURCE_DIR}/man_pages.py)
  add_custom_command(OUTPUT ${pages}/simmctl.1.gz
    COMMAND ${Python3_EXECUTABLE} ${writer} $<TARGET_FILE_DIR:simmctl> ${PROJECT_VERSION} ${pages}
    DEPENDS ${documented} ${writer} ${CMAKE_SOURCE_DIR}/deploy/size.py VERBATIM)
  add_custom_target(manual_pages ALL DEPENDS ${pages}/simmctl.1.gz)
  install(FILES ${pages}/simm-manager.8.gz DESTINATION share/man/man8 COMPONENT manager)
  install(FILES ${pages}/simm-dataserver.8.gz DESTINATION share/man/man8 COMPONENT dataserver)
  foreach(name simmctl simm-size simm-bench)
    install(FILES ${pages}/${name}.1.gz DESTINATION share/man/man1 COMPONENT tools OPTIONAL)
  endforeach()
else()
  message(STATUS "no help2man, or a build with sanitizers: packages are made without manual pages")
endif()

find_program(GZIP gzip REQUIRED)
set(changelog ${CMAKE_CURRENT_BINARY_DIR}/changelog.gz)
execute_process(COMMAND ${GZIP} -9nc ${CMAKE_CURRENT_SOURCE_DIR}/changelog
                OUTPUT_FILE ${changelog} COMMAND_ERROR_IS_FATAL ANY)
foreach(component common manager dataserver tools library development)
  set(package simm-${component})
  if(component STREQUAL library)
    set(package libsimm${abi})
  elseif(component STREQUAL development)
    set(package libsimm-dev)
  endif()
  install(FILES ${CMAKE_CURRENT_SOURCE_DIR}/copyright ${changelog}
          DESTINATION share/doc/${package} COMPONENT ${component})
endforeach()

# What the maintainers' scripts of one package say: written once, for both services.
set(scripts ${CMAKE_CURRENT_BINARY_DIR}/scripts)
foreach(part manager dataserver)
  set(SIMM_UNIT simm-${part})
  foreach(script postinst prerm postrm)
    configure_file(service.${script}.in ${scripts}/${part}/${script} @ONLY
                   FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
                                    WORLD_READ WORLD_EXECUTE)
  endforeach()
  file(CONFIGURE OUTPUT ${scripts}/${part}/conffiles NEWLINE_STYLE UNIX
       CONTENT "${etc}/${part}.yaml\n${etc}/${part}.env\n")
  string(TOUPPER ${part} PART)
  set(CPACK_DEBIAN_${PART}_PACKAGE_CONTROL_EXTRA ${scripts}/${part}/postinst
      ${scripts}/${part}/prerm ${scripts}/${part}/postrm ${scripts}/${part}/conffiles)
  set(CPACK_DEBIAN_${PART}_PACKAGE_DEPENDS "simm-common (>= ${PROJECT_VERSION})")
endforeach()
configure_file(common.postinst ${scripts}/common/postinst COPYONLY)
set(CPACK_DEBIAN_COMMON_PACKAGE_CONTROL_EXTRA ${scripts}/common/postinst)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME simm)
set(CPACK_PACKAGE_VENDOR "SiMM")
set(CPACK_PACKAGE_CONTACT "SiMM maintainers <simm@localhost>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL common manager dataserver tools library development)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(CPACK_DEBIAN_COMMON_PACKAGE_NAME simm-common)
set(CPACK_DEBIAN_COMMON_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_COMMON_PACKAGE_SHLIBDEPS OFF)
set(CPACK_DEBIAN_COMMON_PACKAGE_DEPENDS "systemd | systemd-standalone-sysusers")
set(CPACK_COMPONENT_COMMON_DESCRIPTION "SiMM, distributed memory for AI inference: user and folders
The system user simm and the folder of the pools, for manager and data server.")
set(CPACK_DEBIAN_MANAGER_PACKAGE_NAME simm-manager)
set(CPACK_COMPONENT_MANAGER_DESCRIPTION "SiMM, distributed memory for AI inference: manager
Membership and key map of a cluster. One host needs it, or three beside etcd.")
set(CPACK_DEBIAN_DATASERVER_PACKAGE_NAME simm-dataserver)
set(CPACK_DEBIAN_DATASERVER_PACKAGE_RECOMMENDS ibverbs-providers)
set(CPACK_COMPONENT_DATASERVER_DESCRIPTION "SiMM, distributed memory for AI inference: data server
Lends the memory of a host to the cluster.")
set(CPACK_DEBIAN_TOOLS_PACKAGE_NAME simm-tools)
set(CPACK_DEBIAN_TOOLS_PACKAGE_RECOMMENDS "ibverbs-providers, python3")
set(CPACK_COMPONENT_TOOLS_DESCRIPTION "SiMM, distributed memory for AI inference: tools
simmctl shows and changes a cluster, simm-bench measures one, simm-size
says how large one must be.")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libsimm${abi})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_RECOMMENDS ibverbs-providers)
# By the first, packages of programs that link it come to depend on it; the second has the loader
# find it.
file(CONFIGURE OUTPUT ${scripts}/library/shlibs NEWLINE_STYLE UNIX
     CONTENT "libsimm ${abi} libsimm${abi} (>= ${PROJECT_VERSION})\n")
file(CONFIGURE OUTPUT ${scripts}/library/triggers NEWLINE_STYLE UNIX
     CONTENT "activate-noawait ldconfig\n")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA ${scripts}/library/shlibs
    ${scripts}/library/triggers)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "SiMM, distributed memory for AI inference: client library
What programs need at run time that were built with libsimm-dev.")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libsimm-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SHLIBDEPS OFF)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "libsimm${abi} (= ${PROJECT_VERSION})")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "SiMM, distributed memory for AI inference: headers
Headers of the client library, and find_package(simm) for CMake.")
include(CPack)
