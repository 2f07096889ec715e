# The libraries Syncline is built on, each as one imported target whose headers are system headers.
# The three header-only ones are looked up by header: their CMake packages are named differently from one distribution
# to the next, and Debian's for msgpack insists on Boost, which MSGPACK_NO_BOOST makes unnecessary.

function(syncline_missing what package)
  message(FATAL_ERROR "Syncline needs ${what}, which was not found. On Debian and Ubuntu: apt-get install ${package}")
endfunction()

function(syncline_header_library target header package)
  find_path(${target}_INCLUDE_DIR ${header})
  mark_as_advanced(${target}_INCLUDE_DIR)
  if(NOT ${target}_INCLUDE_DIR)
    syncline_missing("the header ${header}" ${package})
  endif()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE "${${target}_INCLUDE_DIR}")
endfunction()

# Empty definitions, so that a source that says the same for itself redefines nothing.
syncline_header_library(msgpack_headers msgpack.hpp libmsgpack-cxx-dev)
target_compile_definitions(msgpack_headers INTERFACE "MSGPACK_NO_BOOST=")

syncline_header_library(rapidjson_headers rapidjson/rapidjson.h rapidjson-dev)

syncline_header_library(xxhash_headers xxhash.h libxxhash-dev)
target_compile_definitions(xxhash_headers INTERFACE "XXH_INLINE_ALL=")

find_package(SQLite3 3.37 QUIET)
if(NOT SQLite3_FOUND)
  syncline_missing("SQLite 3.37 or newer" libsqlite3-dev)
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

if(SYNCLINE_BUILD_TESTS)
  find_package(GTest QUIET)
  if(NOT GTest_FOUND)
    syncline_missing("GoogleTest, for SYNCLINE_BUILD_TESTS," libgtest-dev)
  endif()
endif()
