// Memory that grows at its end without being cleared first: what the writers of pages and of Python's values write into.
//
// What     `ensure(n)` promises n bytes at the returned place, `advance(n)` says how many of them were written, `append` does both: one
//          check for several pieces, where a std::string checks each. Where the memory comes from is a subclass's.
// Owner    whoever made it. Threads  one at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>

namespace syncline {

class Bytes {
 public:
  Bytes() = default;
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  virtual ~Bytes() = default;

  char* ensure(std::size_t size) {
    if (capacity_ - size_ < size) grow(size);
    return data_ + size_;
  }
  void advance(std::size_t size) noexcept { size_ += size; }
  // Appends what `put` writes at the place it is given, at most so many bytes; it returns the place behind them.
  template <class Put>
  void append(std::size_t most, Put put) {
    char* const from = ensure(most);
    advance(static_cast<std::size_t>(put(from) - from));
  }
  void push_back(char byte) {
    *ensure(1) = byte;
    ++size_;
  }
  Bytes& operator+=(std::string_view text) {
    char* at = ensure(text.size());
    if (!text.empty()) std::memcpy(at, text.data(), text.size());
    size_ += text.size();
    return *this;
  }
  void clear() noexcept { size_ = 0; }
  // How many bytes `ensure` gives without making room.
  [[nodiscard]] std::size_t room() const noexcept { return capacity_ - size_; }

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] char* data() noexcept { return data_; }
  [[nodiscard]] std::string_view view() const noexcept { return {data_, size_}; }

 protected:
  // Makes room for `size` more bytes.
  virtual void grow(std::size_t size) {
    const std::size_t capacity = std::max(std::max<std::size_t>(2 * capacity_, 4096), size_ + size);
    auto larger = std::make_unique_for_overwrite<char[]>(capacity);
    if (size_ > 0) std::memcpy(larger.get(), data_, size_);
    own_ = std::move(larger);
    rest_on(own_.get(), capacity);
  }
  void rest_on(char* data, std::size_t capacity) noexcept {
    data_ = data;
    capacity_ = capacity;
  }
  std::unique_ptr<char[]> own_;

 private:
  char* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace syncline
