#include "bindings/quick_encoder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <string_view>

namespace syncline::python {

namespace {

constexpr std::size_t kMostKeys = 15;  // of a dict that is usual: its header is one byte
constexpr std::size_t kShapes = 256;
constexpr std::size_t kMostKeyBytes = 64;   // of each key of a shape
constexpr std::size_t kKeptBytes = 1 << 20;  // of the buffer, between two calls
constexpr std::size_t kMostHeader = 9;       // of a str, an array or a number

// A row of keys in the order in which dicts hold them.
struct Shape {
  std::size_t count = 0;
  bool dollar = false;                              // one begins with '$'
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

class Output {
 public:
  // Makes room for `size` bytes.
  char* ensure(std::size_t size) {
    if (capacity_ - size_ < size) grow(size);
    return bytes_.get() + size_;
  }
  void advance(std::size_t size) noexcept { size_ += size; }
  void byte(unsigned value) {
    *ensure(1) = static_cast<char>(value);
    ++size_;
  }
  void raw(const char* data, std::size_t size) {
    std::memcpy(ensure(size), data, size);
    size_ += size;
  }
  void str(std::string_view text) {
    char* at = ensure(kMostHeader + text.size());
    const std::size_t header = str_header(at, text.size());
    std::memcpy(at + header, text.data(), text.size());
    size_ += header + text.size();
  }
  template <typename Number>
  void number(unsigned head, Number value) {
    char* at = ensure(1 + sizeof(Number));
    *at = static_cast<char>(head);
    put(at + 1, value);
    size_ += 1 + sizeof(Number);
  }
  static std::size_t str_header(char* at, std::size_t size) noexcept {
    if (size < 32) {
      *at = static_cast<char>(0xa0u | size);
      return 1;
    }
    if (size <= 0xff) {
      at[0] = static_cast<char>(0xd9);
      at[1] = static_cast<char>(size);
      return 2;
    }
    if (size <= 0xffff) {
      at[0] = static_cast<char>(0xda);
      put(at + 1, static_cast<std::uint16_t>(size));
      return 3;
    }
    at[0] = static_cast<char>(0xdb);
    put(at + 1, static_cast<std::uint32_t>(size));
    return 5;
  }
  void clear() noexcept {
    size_ = 0;
    if (capacity_ > kKeptBytes) {
      bytes_.reset();
      capacity_ = 0;
    }
  }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::string_view view() const noexcept { return {bytes_.get(), size_}; }

 private:
  template <typename Number>
  static void put(char* at, Number value) noexcept {
    if constexpr (std::endian::native == std::endian::little) {
      if constexpr (sizeof(Number) == 2) value = __builtin_bswap16(value);
      if constexpr (sizeof(Number) == 4) value = __builtin_bswap32(value);
      if constexpr (sizeof(Number) == 8) value = __builtin_bswap64(value);
    }
    std::memcpy(at, &value, sizeof(Number));
  }
  void grow(std::size_t size) {
    const std::size_t capacity = std::max<std::size_t>(std::max<std::size_t>(2 * capacity_, 4096), size_ + size);
    auto larger = std::make_unique_for_overwrite<char[]>(capacity);
    if (size_ > 0) std::memcpy(larger.get(), bytes_.get(), size_);
    bytes_ = std::move(larger);
    capacity_ = capacity;
  }

  std::unique_ptr<char[]> bytes_;
  std::size_t size_ = 0, capacity_ = 0;
};
Output shared_output;

class QuickEncoder {
 public:
  QuickEncoder(const mp::Border& border, Output& out) noexcept : border_(border), out_(out), levels_left_(border.max_nesting) {}

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

  bool byte(unsigned value) {
    out_.byte(value);
    return true;
  }

  bool str(PyObject* value) {
    std::string_view text;
    if (!utf8_of(value, text) || out_.size() + text.size() > border_.max_bytes) return false;
    out_.str(text);
    return true;
  }

  bool integer(PyObject* value) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0) return false;
    const auto bits = static_cast<std::uint64_t>(number);
    if (number >= 0) {
      if (bits < 0x80) return byte(static_cast<unsigned>(bits));
      if (bits <= 0xff) return out_.number(0xcc, static_cast<std::uint8_t>(bits)), true;
      if (bits <= 0xffff) return out_.number(0xcd, static_cast<std::uint16_t>(bits)), true;
      if (bits <= 0xffffffff) return out_.number(0xce, static_cast<std::uint32_t>(bits)), true;
      return out_.number(0xcf, bits), true;
    }
    if (number >= -32) return byte(static_cast<std::uint8_t>(bits));
    if (number >= -0x80) return out_.number(0xd0, static_cast<std::uint8_t>(bits)), true;
    if (number >= -0x8000) return out_.number(0xd1, static_cast<std::uint16_t>(bits)), true;
    if (number >= -0x80000000LL) return out_.number(0xd2, static_cast<std::uint32_t>(bits)), true;
    return out_.number(0xd3, bits), true;
  }

  bool real(double value) {
    if (value != value) return false;  // which NaN it becomes is the other's to know
    out_.number(0xcb, std::bit_cast<std::uint64_t>(value));
    return true;
  }

  bool bin(std::string_view bytes) {
    if (bytes.size() > 0xff) return false;
    out_.number(0xc4, static_cast<std::uint8_t>(bytes.size()));
    out_.raw(bytes.data(), bytes.size());
    return true;
  }

  bool items(PyObject** first, Py_ssize_t size) {
    if (size > 0xffff || levels_left_ == 0) return false;
    --levels_left_;
    if (size < 16) {
      out_.byte(0x90u | static_cast<unsigned>(size));
    } else {
      out_.number(0xdc, static_cast<std::uint16_t>(size));
    }
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
    out_.byte(0x80u | static_cast<unsigned>(count));
    Shape& shape = shapes[(hash ^ hash >> 16) % kShapes];
    if (shape.count != count || !std::equal(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(count), shape.keys.begin())) {
      if (!fields(keys, found, count, shape)) return false;
    } else {
      if (shape.dollar && !border_.allow_dollar_keys) return false;
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t begin = shape.ends[i];
        out_.raw(shape.encoded.data() + begin, shape.ends[i + 1] - begin);
        if (!this->value(found[shape.order[i]])) return false;
      }
    }
    ++levels_left_;
    return true;
  }

  // The fields of a dict whose keys were not met before, or are no objects to meet again.
  bool fields(const Keys& keys, const Keys& found, std::size_t count, Shape& shape) {
    std::array<Key, kMostKeys> sorted;
    bool kept = count > 0;
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
      out_.str(sorted[i].utf8);
      if (!value(found[sorted[i].place])) return false;
    }
    return true;
  }

  static void remember(Shape& shape, const Keys& keys, const std::array<Key, kMostKeys>& sorted, std::size_t count, bool dollar) {
    shape.clear();
    shape.encoded.clear();
    for (std::size_t i = 0; i < count; ++i) {
      char header[kMostHeader];
      shape.encoded.append(header, Output::str_header(header, sorted[i].utf8.size())).append(sorted[i].utf8);
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
  Output& out_;
  int levels_left_;
};

}  // namespace

bool encode_quickly(PyObject* value, const mp::Border& border, std::string& out) {
  shared_output.clear();
  if (!QuickEncoder(border, shared_output).value(value) || shared_output.size() > border.max_bytes) return false;
  out.assign(shared_output.view());
  return true;
}

}  // namespace syncline::python
