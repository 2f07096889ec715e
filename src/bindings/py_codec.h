// Python objects <-> canonical msgpack, with nothing in between.
//
// What     None, bool, int (-2^63 ... 2^64-1), float, str, bytes (bytearray, memoryview), list (tuple), dict with str keys, and
//          aware datetime; subclasses count as their base. Anything else is refused with the path where it was found.
//          Decoding gives None, bool, int, float, str, bytes, list, dict, and datetime in UTC.
// Threads  with the GIL.
#pragma once

#include <concepts>
#include <string>
#include <string_view>

#include "base/msgpack.h"
#include "bindings/python.h"
#include "bindings/quick_encoder.h"

namespace syncline::python {

// `root` begins the path in a refusal: "args.items[3].when: ...".
std::string encode(py::handle value, std::string_view root, const mp::Border& border = {});
std::string encode_carefully(py::handle value, std::string_view root, const mp::Border& border);
// The same, where saying it costs something: `root()` is asked only for a value that is not usual.
template <std::invocable Root>
std::string encode(py::handle value, const Root& root, const mp::Border& border) {
  std::string out;
  if (encode_quickly(value.ptr(), border, out)) return out;
  return encode_carefully(value, root(), border);
}
py::object decode(std::string_view canonical);

// A short str that is likely to come again (a key, a name): from a cache where it is there.
py::object cached_str(std::string_view utf8);

// An aware datetime <-> microseconds since 1970. The first refuses like `encode`.
std::int64_t instant_of(py::handle value, std::string_view path, Code code);
py::object datetime_of(std::int64_t microseconds);

void init_codec();  // once, at import

}  // namespace syncline::python
