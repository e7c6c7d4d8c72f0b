# kt_web_library(<target>): the static library of the chat page's files (apps/web/embed/web_assets.h). With
# KT_WEB=ON npm builds the page inside the build folder, again only when one of its sources changed.
option(KT_WEB "Build the chat page into the program (needs npm)" ON)

if(KT_WEB)
  find_program(KT_NPM npm)
  if(NOT KT_NPM)
    message(FATAL_ERROR "The chat page needs npm (Node 22.12 or newer): run ./dev setup, set -DKT_NPM=<path>, or "
      "build without the page: -DKT_WEB=OFF")
  endif()
endif()

function(kt_web_library target)
  set(folder ${PROJECT_SOURCE_DIR}/apps/web)
  if(KT_WEB)
    set(output ${CMAKE_BINARY_DIR}/web)
    set(assets ${output}/web_assets.cc)
    set(script ${PROJECT_SOURCE_DIR}/tools/build_web.sh)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/src/* ${folder}/public/* ${folder}/tools/*)
    list(FILTER sources EXCLUDE REGEX "\\.test\\.ts$")
    add_custom_command(
      OUTPUT ${assets}
      COMMAND ${CMAKE_COMMAND} -E env KT_NPM=${KT_NPM} ${script} ${output}
      DEPENDS ${sources} ${script} ${folder}/index.html ${folder}/vite.config.ts ${folder}/tsconfig.json
        ${folder}/package.json ${folder}/package-lock.json
      COMMENT "Building the chat page"
      VERBATIM)
  else()
    set(assets ${folder}/embed/no_web_assets.cc)
  endif()
  add_library(${target} STATIC ${assets})
  target_include_directories(${target} PUBLIC ${folder})  # "embed/web_assets.h"
  target_link_libraries(${target} PRIVATE kt_options)
endfunction()
