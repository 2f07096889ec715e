#include "bindings/py_codec.h"

#include <datetime.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/builder.h"
#include "base/utf8.h"

namespace syncline::python {

namespace {

constexpr std::int64_t kSecond = 1'000'000;
constexpr std::int64_t kDay = 86'400 * kSecond;

std::int64_t days_of(int year, unsigned month, unsigned day) {
  const std::chrono::sys_days days{std::chrono::year{year} / std::chrono::month{month} / std::chrono::day{day}};
  return days.time_since_epoch().count();
}

// nullptr: done; otherwise what is wrong with it.
const char* read_instant(PyObject* value, std::int64_t& microseconds) {
  constexpr const char* kNaive =
      "a datetime without a time zone names no instant; give it one, as in datetime.now(timezone.utc) or value.astimezone()";
  PyObject* zone = PyDateTime_DATE_GET_TZINFO(value);
  if (zone == Py_None) return kNaive;
  std::int64_t offset = 0;
  if (zone != PyDateTime_TimeZone_UTC) {
    const auto delta = py::reinterpret_steal<py::object>(PyObject_CallMethod(value, "utcoffset", nullptr));
    if (!delta) throw py::error_already_set();
    if (!PyDelta_Check(delta.ptr())) return kNaive;
    offset = PyDateTime_DELTA_GET_DAYS(delta.ptr()) * kDay + PyDateTime_DELTA_GET_SECONDS(delta.ptr()) * kSecond +
             PyDateTime_DELTA_GET_MICROSECONDS(delta.ptr());
  }
  microseconds = days_of(PyDateTime_GET_YEAR(value), static_cast<unsigned>(PyDateTime_GET_MONTH(value)),
                         static_cast<unsigned>(PyDateTime_GET_DAY(value))) *
                     kDay +
                 (PyDateTime_DATE_GET_HOUR(value) * 3600 + PyDateTime_DATE_GET_MINUTE(value) * 60 +
                  PyDateTime_DATE_GET_SECOND(value)) *
                     kSecond +
                 PyDateTime_DATE_GET_MICROSECOND(value) - offset;
  return nullptr;
}

// Walks a Python value and feeds the builder. Holds a reference to each container it is in and each item it looks at, because a
// tzinfo runs Python code, which may change them.
class Encoder {
 public:
  // What Python gives as UTF-8 is valid.
  Encoder(std::string_view root, const mp::Border& border) : root_(root), border_(border), builder_(border, mp::Builder::Texts::valid) {
    builder_.reserve(kUsualBytes);
  }

  std::string run(PyObject* value) {
    this->value(value);
    return builder_.take();
  }

 private:
  static constexpr std::size_t kUsualBytes = 256;

  struct Step {
    PyObject* key;  // nullptr: an index
    Py_ssize_t index;
  };

  void value(PyObject* value) {
    if (PyUnicode_Check(value)) return str(value);
    if (value == Py_None) return accept(builder_.nil());
    if (PyBool_Check(value)) return accept(builder_.boolean(value == Py_True));
    if (PyLong_Check(value)) return integer(value);
    if (PyFloat_Check(value)) return accept(builder_.real(PyFloat_AS_DOUBLE(value)));
    if (PyDict_Check(value)) return dict(value);
    if (PyList_Check(value)) return sequence(value, [value] { return PyList_GET_SIZE(value); }, [value](Py_ssize_t i) { return PyList_GET_ITEM(value, i); });
    if (PyTuple_Check(value)) return sequence(value, [value] { return PyTuple_GET_SIZE(value); }, [value](Py_ssize_t i) { return PyTuple_GET_ITEM(value, i); });
    if (PyBytes_Check(value)) return accept(builder_.bin({PyBytes_AS_STRING(value), static_cast<std::size_t>(PyBytes_GET_SIZE(value))}));
    if (PyByteArray_Check(value)) {
      return accept(builder_.bin({PyByteArray_AS_STRING(value), static_cast<std::size_t>(PyByteArray_GET_SIZE(value))}));
    }
    if (PyMemoryView_Check(value)) return memory(value);
    if (PyDateTime_Check(value)) return instant(value);
    refuse_type(value);
  }

  void str(PyObject* value) {
    Py_ssize_t size = 0;
    const char* utf8 = PyUnicode_AsUTF8AndSize(value, &size);
    if (utf8 == nullptr) {
      PyErr_Clear();
      refuse("a str with a lone surrogate has no UTF-8 form");
    }
    accept(builder_.str({utf8, static_cast<std::size_t>(size)}));
  }

  void integer(PyObject* value) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) return accept(builder_.integer(number));
    if (overflow > 0) {
      const unsigned long long natural = PyLong_AsUnsignedLongLong(value);
      if (!(natural == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr)) return accept(builder_.natural(natural));
      PyErr_Clear();
    }
    refuse("an int must lie in -2**63 ... 2**64-1; write a larger one as a str");
  }

  void memory(PyObject* value) {
    Py_buffer buffer;
    if (PyObject_GetBuffer(value, &buffer, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      refuse("a memoryview must be contiguous and not released");
    }
    const bool taken = builder_.bin({static_cast<const char*>(buffer.buf), static_cast<std::size_t>(buffer.len)});
    PyBuffer_Release(&buffer);
    accept(taken);
  }

  void instant(PyObject* value) {
    std::int64_t microseconds = 0;
    if (const char* wrong = read_instant(value, microseconds)) refuse(wrong);
    accept(builder_.instant(microseconds));
  }

  void dict(PyObject* value) {
    const auto held = py::reinterpret_borrow<py::object>(value);
    const Py_ssize_t size = PyDict_GET_SIZE(value);
    open(builder_.open_map(static_cast<std::size_t>(size)));
    Py_ssize_t at = 0;
    Py_ssize_t seen = 0;
    PyObject* key = nullptr;
    PyObject* item = nullptr;
    while (PyDict_Next(value, &at, &key, &item) != 0) {
      const auto held_key = py::reinterpret_borrow<py::object>(key);
      const auto held_item = py::reinterpret_borrow<py::object>(item);
      ++seen;
      if (!PyUnicode_Check(key)) {
        refuse("a key must be a str, not " + std::string(Py_TYPE(key)->tp_name) + " (" + short_repr(key) + ")");
      }
      Py_ssize_t length = 0;
      const char* utf8 = PyUnicode_AsUTF8AndSize(key, &length);
      if (utf8 == nullptr) {
        PyErr_Clear();
        refuse("a key with a lone surrogate has no UTF-8 form");
      }
      accept(builder_.key({utf8, static_cast<std::size_t>(length)}));
      path_.push_back({key, 0});
      this->value(item);
      path_.pop_back();
      if (PyDict_GET_SIZE(value) != size) break;
    }
    if (PyDict_GET_SIZE(value) != size || seen != size) refuse("the dict was changed while it was read");
    accept(builder_.close());
  }

  template <typename Size, typename Item>
  void sequence(PyObject* value, Size size, Item item) {
    const auto held = py::reinterpret_borrow<py::object>(value);
    open(builder_.open_array(static_cast<std::size_t>(size())));
    for (Py_ssize_t i = 0; i < size(); ++i) {
      const auto held_item = py::reinterpret_borrow<py::object>(item(i));
      path_.push_back({nullptr, i});
      this->value(held_item.ptr());
      path_.pop_back();
    }
    accept(builder_.close());
  }

  void open(bool opened) {
    if (opened) return;
    if (builder_.refusal().size_limit) return accept(false);
    refuse("maps and lists are nested more than " + std::to_string(border_.max_nesting) +
           " deep (an object that contains itself is nested without end)");
  }

  void accept(bool taken) {
    if (taken) return;
    const auto& refusal = builder_.refusal();
    if (refusal.size_limit) {
      throw Error(Code::too_large, where() + refusal.message, {{"limit", static_cast<std::int64_t>(border_.max_bytes)}});
    }
    refuse(refusal.message);
  }

  [[noreturn]] void refuse(const std::string& what) const { throw Error(border_.code, where() + what); }

  [[noreturn]] void refuse_type(PyObject* value) const {
    const std::string name = Py_TYPE(value)->tp_name;
    std::string advice;
    if (PyDate_Check(value)) {
      advice = "; write value.isoformat(), or an aware datetime";
    } else if (PyAnySet_Check(value)) {
      advice = "; write sorted(value)";
    } else if (PyObject_HasAttrString(value, "__dataclass_fields__") != 0) {
      advice = "; write dataclasses.asdict(value)";
    } else if (PyIndex_Check(value) != 0) {
      advice = "; write int(value)";
    } else if (PyMapping_Check(value) != 0 && PyObject_HasAttrString(value, "keys") != 0) {
      advice = "; write dict(value)";
    } else if (PyObject_HasAttrString(value, "value") != 0 && PyObject_HasAttrString(value, "name") != 0) {
      advice = "; write its .value";
    }
    refuse("no value of type " + name + " can be stored (None, bool, int, float, str, bytes, list, dict and aware datetime can)" + advice);
  }

  static std::string short_repr(PyObject* value) {
    const auto repr = py::reinterpret_steal<py::object>(PyObject_Repr(value));
    if (!repr) {
      PyErr_Clear();
      return "?";
    }
    const char* utf8 = PyUnicode_AsUTF8(repr.ptr());
    if (utf8 == nullptr) {
      PyErr_Clear();
      return "?";
    }
    return std::string(utf8).substr(0, 40);
  }

  [[nodiscard]] std::string where() const {
    // The beginning and the end of a long path tell enough.
    constexpr std::size_t kShown = 8;
    std::string path(root_);
    for (std::size_t i = 0; i < path_.size(); ++i) {
      if (path_.size() > 2 * kShown && i == kShown) {
        path += "...";
        i = path_.size() - kShown;
      }
      const Step& step = path_[i];
      if (step.key == nullptr) {
        path += "[" + std::to_string(step.index) + "]";
      } else {
        path += (path.empty() ? "" : ".") + std::string(PyUnicode_AsUTF8(step.key)).substr(0, 64);
      }
    }
    return path.empty() ? path : path + ": ";
  }

  std::string_view root_;
  mp::Border border_;
  mp::Builder builder_;
  std::vector<Step> path_;
};

// ------------------------------------------------------------------------------------------------------------ decoding

// Keys come again and again: a direct-mapped table by hash. Guarded by the GIL, never freed.
struct CachedKey {
  PyObject* object = nullptr;
  std::uint8_t size = 0;
  char bytes[32] = {};
};
std::array<CachedKey, 1024> cached_keys;

// Of the first and the last eight bytes; keys that agree in them take turns in one slot.
std::uint32_t hash_of(std::string_view utf8) noexcept {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  if (utf8.size() >= 8) {
    std::memcpy(&first, utf8.data(), 8);
    std::memcpy(&last, utf8.data() + utf8.size() - 8, 8);
  } else if (utf8.size() >= 4) {
    std::memcpy(&first, utf8.data(), 4);
    std::memcpy(&last, utf8.data() + utf8.size() - 4, 4);
  } else {
    for (const char byte : utf8) first = first << 8 | static_cast<std::uint8_t>(byte);
  }
  const std::uint64_t mixed = (first * 0x9e3779b97f4a7c15u ^ last) * 0xbf58476d1ce4e5b9u + utf8.size();
  return static_cast<std::uint32_t>(mixed >> 32 ^ mixed);
}

PyObject* checked(PyObject* made) {
  if (made == nullptr) throw py::error_already_set();
  return made;
}

PyObject* make_str(std::string_view utf8) {
  return checked(PyUnicode_DecodeUTF8(utf8.data(), static_cast<Py_ssize_t>(utf8.size()), nullptr));
}

PyObject* key_str(std::string_view utf8) {
  if (utf8.size() > sizeof(CachedKey::bytes)) return make_str(utf8);
  CachedKey& slot = cached_keys[hash_of(utf8) % cached_keys.size()];
  if (slot.object == nullptr || slot.size != utf8.size() || std::memcmp(slot.bytes, utf8.data(), utf8.size()) != 0) {
    PyObject* made = make_str(utf8);
    PyUnicode_InternInPlace(&made);
    Py_XSETREF(slot.object, made);
    slot.size = static_cast<std::uint8_t>(utf8.size());
    std::memcpy(slot.bytes, utf8.data(), utf8.size());
  }
  return Py_NewRef(slot.object);
}

PyObject* decode_one(mp::Reader& reader) {
  switch (reader.peek()) {
    case mp::Kind::nil: reader.nil(); return Py_NewRef(Py_None);
    case mp::Kind::boolean: return Py_NewRef(reader.boolean() ? Py_True : Py_False);
    case mp::Kind::integer: return checked(PyLong_FromLongLong(reader.integer()));
    case mp::Kind::natural: return checked(PyLong_FromUnsignedLongLong(reader.natural()));
    case mp::Kind::real: return checked(PyFloat_FromDouble(reader.real()));
    case mp::Kind::str: return make_str(reader.str());
    case mp::Kind::bin: {
      const std::string_view bytes = reader.bin();
      return checked(PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
    }
    case mp::Kind::instant: return datetime_of(reader.instant()).release().ptr();
    case mp::Kind::array: {
      const auto size = static_cast<Py_ssize_t>(reader.array());
      auto list = py::reinterpret_steal<py::object>(checked(PyList_New(size)));
      for (Py_ssize_t i = 0; i < size; ++i) PyList_SET_ITEM(list.ptr(), i, decode_one(reader));
      return list.release().ptr();
    }
    case mp::Kind::map: {
      auto dict = py::reinterpret_steal<py::object>(checked(PyDict_New()));
      for (std::size_t left = reader.map(); left > 0; --left) {
        const auto key = py::reinterpret_steal<py::object>(key_str(reader.str()));
        const auto item = py::reinterpret_steal<py::object>(decode_one(reader));
        if (PyDict_SetItem(dict.ptr(), key.ptr(), item.ptr()) != 0) throw py::error_already_set();
      }
      return dict.release().ptr();
    }
  }
  throw Error(Code::corrupt, "stored msgpack holds a value of no kind");
}

}  // namespace

std::string encode_carefully(py::handle value, std::string_view root, const mp::Border& border) {
  return Encoder(root, border).run(value.ptr());
}

std::string encode(py::handle value, std::string_view root, const mp::Border& border) {
  return encode(value, [root] { return root; }, border);
}

py::object decode(std::string_view canonical) {
  mp::Reader reader(canonical);
  return py::reinterpret_steal<py::object>(decode_one(reader));
}

py::object cached_str(std::string_view utf8) { return py::reinterpret_steal<py::object>(key_str(utf8)); }

std::int64_t instant_of(py::handle value, std::string_view path, Code code) {
  if (!PyDateTime_Check(value.ptr())) {
    throw Error(code, std::string(path) + ": must be an aware datetime, not " + Py_TYPE(value.ptr())->tp_name);
  }
  std::int64_t microseconds = 0;
  if (const char* wrong = read_instant(value.ptr(), microseconds)) throw Error(code, std::string(path) + ": " + wrong);
  return microseconds;
}

py::object datetime_of(std::int64_t microseconds) {
  std::int64_t days = microseconds / kDay;
  std::int64_t rest = microseconds % kDay;
  if (rest < 0) {
    rest += kDay;
    --days;
  }
  const std::chrono::year_month_day date{std::chrono::sys_days{std::chrono::days{days}}};
  const auto second = static_cast<int>(rest / kSecond);
  PyObject* made = PyDateTimeAPI->DateTime_FromDateAndTime(
      static_cast<int>(date.year()), static_cast<int>(static_cast<unsigned>(date.month())),
      static_cast<int>(static_cast<unsigned>(date.day())), second / 3600, second / 60 % 60, second % 60,
      static_cast<int>(rest % kSecond), PyDateTime_TimeZone_UTC, PyDateTimeAPI->DateTimeType);
  return py::reinterpret_steal<py::object>(checked(made));
}

void init_codec() {
  PyDateTime_IMPORT;
  if (PyDateTimeAPI == nullptr) throw py::error_already_set();
}

}  // namespace syncline::python
