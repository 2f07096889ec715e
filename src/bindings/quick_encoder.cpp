#include "bindings/quick_encoder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>

#include "base/bytes.h"
#include "base/packer.h"

namespace syncline::python {

namespace {

constexpr std::size_t kMostKeys = 15;  // of a dict that is usual: its header is one byte
constexpr std::size_t kShapes = 256;
constexpr std::size_t kMostKeyBytes = 64;   // of each key of a shape
constexpr std::size_t kKeptBytes = 1 << 20;  // of the buffer, between two calls

// A row of keys in the order in which dicts hold them.
struct Shape {
  std::size_t count = 0;
  bool dollar = false;                              // one begins with '$'
  int used = 0;                                     // by dicts that are being written: what lies in them must not take its place
  std::array<PyObject*, kMostKeys> keys{};          // owned
  std::array<std::uint8_t, kMostKeys> order{};      // sorted: the place of the n-th key in the dict
  std::array<std::uint16_t, kMostKeys + 1> ends{};  // of the n-th key's encoding in `encoded`
  std::string encoded;

  void clear() noexcept {
    for (std::size_t i = 0; i < count; ++i) Py_CLEAR(keys[i]);
    count = 0;
  }
};
std::array<Shape, kShapes> shapes;

// Kept from call to call, so that nothing is allocated but what is returned.
class Scratch : public Bytes {
 public:
  void reset() noexcept {
    clear();
    if (capacity() <= kKeptBytes) return;
    own_.reset();
    rest_on(nullptr, 0);
  }
};
Scratch scratch;

class QuickEncoder {
 public:
  QuickEncoder(const mp::Border& border, Bytes& out) noexcept : border_(border), out_(out), levels_left_(border.max_nesting) {}

  bool value(PyObject* value) {
    // Lists within lists of the same list grow without end.
    if (out_.size() > border_.max_bytes) return false;
    const PyTypeObject* type = Py_TYPE(value);
    if (type == &PyUnicode_Type) return str(value);
    if (type == &PyLong_Type) return integer(value);
    if (type == &PyFloat_Type) return real(PyFloat_AS_DOUBLE(value));
    if (value == Py_None) return byte(0xc0);
    if (value == Py_True) return byte(0xc3);
    if (value == Py_False) return byte(0xc2);
    if (type == &PyDict_Type) return dict(value);
    if (type == &PyList_Type) return items(PySequence_Fast_ITEMS(value), PyList_GET_SIZE(value));
    if (type == &PyTuple_Type) return items(PySequence_Fast_ITEMS(value), PyTuple_GET_SIZE(value));
    if (type == &PyBytes_Type) return bin({PyBytes_AS_STRING(value), static_cast<std::size_t>(PyBytes_GET_SIZE(value))});
    return false;
  }

 private:
  struct Key {
    std::string_view utf8;
    std::uint8_t place = 0;  // in the dict
  };
  using Keys = std::array<PyObject*, kMostKeys>;
  class Use {
   public:
    explicit Use(Shape& shape) noexcept : shape_(shape) { ++shape_.used; }
    ~Use() { --shape_.used; }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Shape& shape_;
  };

  // `piece` writes at most `size` bytes at a place and returns the place behind them.
  template <class Piece>
  bool write(std::size_t size, Piece piece) {
    out_.append(size, piece);
    return true;
  }

  bool byte(unsigned value) {
    out_.push_back(static_cast<char>(value));
    return true;
  }

  bool text(std::string_view utf8) {
    return write(mp::put::kHeader + utf8.size(), [utf8](char* at) { return mp::put::str(at, utf8); });
  }

  bool str(PyObject* value) {
    std::string_view text;
    if (!utf8_of(value, text) || out_.size() + text.size() > border_.max_bytes) return false;
    return this->text(text);
  }

  bool integer(PyObject* value) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow == 0 && write(mp::put::kHeader, [number](char* at) { return mp::put::integer(at, number); });
  }

  bool real(double value) {
    if (value != value) return false;  // which NaN it becomes is the other's to know
    return write(mp::put::kHeader, [value](char* at) { return mp::put::number(at, 0xcb, std::bit_cast<std::uint64_t>(value)); });
  }

  bool bin(std::string_view bytes) {
    if (bytes.size() > 0xff) return false;
    return write(mp::put::kHeader + bytes.size(), [bytes](char* at) {
      return mp::put::raw(mp::put::number(at, 0xc4, static_cast<std::uint8_t>(bytes.size())), bytes);
    });
  }

  bool items(PyObject** first, Py_ssize_t size) {
    if (size > 0xffff || levels_left_ == 0) return false;
    --levels_left_;
    write(mp::put::kHeader, [size](char* at) { return mp::put::array_header(at, static_cast<std::size_t>(size)); });
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (!value(first[i])) return false;
    }
    ++levels_left_;
    return true;
  }

  bool dict(PyObject* value) {
    const auto count = static_cast<std::size_t>(PyDict_GET_SIZE(value));
    if (count > kMostKeys || levels_left_ == 0) return false;
    --levels_left_;
    Keys keys;
    Keys found;
    std::size_t hash = count;
    Py_ssize_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (PyDict_Next(value, &at, &keys[i], &found[i]) == 0 || Py_TYPE(keys[i]) != &PyUnicode_Type) return false;
      hash = hash * 31 + (reinterpret_cast<std::uintptr_t>(keys[i]) >> 4);
    }
    byte(0x80u | static_cast<unsigned>(count));
    Shape& shape = shapes[(hash ^ hash >> 16) % kShapes];
    if (shape.count != count || !std::equal(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(count), shape.keys.begin())) {
      if (!fields(keys, found, count, shape)) return false;
    } else {
      if (shape.dollar && !border_.allow_dollar_keys) return false;
      const Use use(shape);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t begin = shape.ends[i];
        out_ += std::string_view(shape.encoded).substr(begin, shape.ends[i + 1] - begin);
        if (!this->value(found[shape.order[i]])) return false;
      }
    }
    ++levels_left_;
    return true;
  }

  // The fields of a dict whose keys were not met before, or are no objects to meet again.
  bool fields(const Keys& keys, const Keys& found, std::size_t count, Shape& shape) {
    std::array<Key, kMostKeys> sorted;
    bool kept = count > 0 && shape.used == 0;
    bool dollar = false;
    for (std::size_t i = 0; i < count; ++i) {
      sorted[i].place = static_cast<std::uint8_t>(i);
      if (!utf8_of(keys[i], sorted[i].utf8)) return false;
      kept = kept && PyUnicode_CHECK_INTERNED(keys[i]) != 0 && sorted[i].utf8.size() <= kMostKeyBytes;
      dollar = dollar || sorted[i].utf8.starts_with('$');
    }
    if (dollar && !border_.allow_dollar_keys) return false;
    std::sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(count), [](const Key& a, const Key& b) { return a.utf8 < b.utf8; });
    if (kept) remember(shape, keys, sorted, count, dollar);
    for (std::size_t i = 0; i < count; ++i) {
      if (out_.size() + sorted[i].utf8.size() > border_.max_bytes) return false;
      text(sorted[i].utf8);
      if (!value(found[sorted[i].place])) return false;
    }
    return true;
  }

  static void remember(Shape& shape, const Keys& keys, const std::array<Key, kMostKeys>& sorted, std::size_t count, bool dollar) {
    shape.clear();
    shape.encoded.clear();
    for (std::size_t i = 0; i < count; ++i) {
      char encoded[mp::put::kHeader + kMostKeyBytes];
      shape.encoded.append(encoded, mp::put::str(encoded, sorted[i].utf8));
      shape.order[i] = sorted[i].place;
      shape.ends[i + 1] = static_cast<std::uint16_t>(shape.encoded.size());
    }
    for (std::size_t i = 0; i < count; ++i) shape.keys[i] = Py_NewRef(keys[i]);
    shape.count = count;
    shape.dollar = dollar;
  }

  static bool utf8_of(PyObject* value, std::string_view& text) {
    Py_ssize_t size = 0;
    const char* utf8 = PyUnicode_AsUTF8AndSize(value, &size);
    if (utf8 == nullptr) {
      PyErr_Clear();
      return false;
    }
    text = {utf8, static_cast<std::size_t>(size)};
    return true;
  }

  const mp::Border& border_;
  Bytes& out_;
  int levels_left_;
};

}  // namespace

bool encode_quickly(PyObject* value, const mp::Border& border, std::string& out) {
  scratch.reset();
  if (!QuickEncoder(border, scratch).value(value) || scratch.size() > border.max_bytes) return false;
  out.assign(scratch.view());
  return true;
}

}  // namespace syncline::python
