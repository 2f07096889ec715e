#include "base/json.h"
#include "bindings/py_codec.h"
#include "engine/wire.h"

namespace syncline::python {

namespace {

// Not a document: as large as a body may become.
mp::Border border_of(std::int64_t max_bytes) {
  return {.code = Code::invalid_request, .max_nesting = mp::kMaxNesting, .max_bytes = static_cast<std::size_t>(max_bytes), .allow_dollar_keys = false};
}

constexpr std::int64_t kMaxBytes = 1 << 30;

}  // namespace

void bind_codec(py::module_& module) {
  module.def(
      "packb", [](py::handle value) { return to_bytes(encode(value, "value", border_of(kMaxBytes))); }, py::arg("value"),
      "A value as canonical msgpack.");
  module.def(
      "unpackb",
      [](py::handle packed) {
        const Body body(packed);
        std::string canonical;
        {
          const WithoutGil free;  // parses
          canonical = mp::canonicalise(body.view(), border_of(kMaxBytes));
        }
        return decode(canonical);
      },
      py::arg("packed"), "The value of any msgpack.");
  module.def(
      "json_encode",
      [](py::handle value) {
        const std::string packed = encode(value, "value", border_of(kMaxBytes));
        std::string out;
        {
          const WithoutGil free;  // transcodes
          json::from_msgpack(packed, out);
        }
        return to_bytes(out);
      },
      py::arg("value"), "A value in the protocol's JSON.");
  module.def(
      "json_decode",
      [](py::handle source) {
        const Body body(source);
        std::string canonical;
        {
          const WithoutGil free;  // parses
          canonical = json::to_msgpack(body.view(), border_of(kMaxBytes));
        }
        return decode(canonical);
      },
      py::arg("text"), "The value of the protocol's JSON.");
  module.def(
      "canonical",
      [](py::handle source, std::string_view from_format) {
        const Body body(source);
        const Format format = format_of(from_format);
        std::string canonical;
        {
          const WithoutGil free;  // parses
          canonical = format == Format::json ? json::to_msgpack(body.view(), border_of(kMaxBytes))
                                             : mp::canonicalise(body.view(), border_of(kMaxBytes));
        }
        return to_bytes(canonical);
      },
      py::arg("body"), py::arg("from_format"), "A body of either format as canonical msgpack.");
}

}  // namespace syncline::python
