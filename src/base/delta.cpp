#include "base/delta.h"

#include <vector>

#include "base/builder.h"
#include "base/msgpack.h"

namespace syncline::delta {

namespace {

using mp::Kind;
using mp::Reader;
using mp::Writer;

// Documents are bounded where they are written; this only keeps a damaged file from exhausting the stack.
constexpr int kMaxDepth = 1000;

constexpr std::int64_t kAdded = 0;
constexpr std::int64_t kRemoved = 1;
constexpr std::int64_t kReplaced = 2;
constexpr std::int64_t kWithin = 3;

[[noreturn]] void misfit(const std::string& why) { throw Error(Code::corrupt, "the stored delta does not fit: " + why); }

// Walks the fields of an encoded map.
class Fields {
 public:
  explicit Fields(std::string_view map) : map_(map), reader_(map), left_(reader_.map()) { advance(); }

  [[nodiscard]] bool done() const noexcept { return done_; }
  [[nodiscard]] std::string_view key() const noexcept { return key_; }
  [[nodiscard]] std::string_view value() const noexcept { return value_; }
  [[nodiscard]] std::string_view both() const noexcept { return both_; }  // key and value, as they are encoded

  void advance() {
    if (left_ == 0) {
      if (!reader_.at_end()) throw Error(Code::corrupt, "bytes follow a stored map");
      done_ = true;
      return;
    }
    --left_;
    const std::size_t start = reader_.offset();
    key_ = reader_.str();
    value_ = reader_.skip();
    both_ = map_.substr(start, reader_.offset() - start);
  }

 private:
  std::string_view map_;
  Reader reader_;
  std::size_t left_;
  bool done_ = false;
  std::string_view key_, value_, both_;
};

// <0: the next field is only in `a`, >0: only in `b`, 0: in both. Not to be asked when both are done.
int order(const Fields& a, const Fields& b) noexcept {
  if (a.done()) return 1;
  if (b.done()) return -1;
  return a.key().compare(b.key());
}

// A map of a size not known before its fields are written.
class OpenMap {
 public:
  explicit OpenMap(std::string& out) : out_(out), header_at_(out.size()) { out.push_back('\0'); }
  void count() noexcept { ++size_; }
  void raw(std::string_view field) {
    out_.append(field);
    ++size_;
  }
  void close() { mp::close_header(out_, header_at_, size_, true); }

 private:
  std::string& out_;
  std::size_t header_at_;
  std::size_t size_ = 0;
};

bool is_map(std::string_view value) { return Reader(value).peek() == Kind::map; }

void check_depth(int depth) {
  if (depth > kMaxDepth) throw Error(Code::corrupt, "a stored document is nested too deeply");
}

void diff_into(std::string& out, std::string_view before, std::string_view after, int depth) {
  check_depth(depth);
  OpenMap delta(out);
  Writer writer(out);
  Fields a(before);
  Fields b(after);
  while (!a.done() || !b.done()) {
    const int which = order(a, b);
    if (which < 0) {
      writer.str(a.key());
      writer.array(2);
      writer.integer(kRemoved);
      writer.raw(a.value());
      delta.count();
      a.advance();
    } else if (which > 0) {
      writer.str(b.key());
      writer.array(2);
      writer.integer(kAdded);
      writer.raw(b.value());
      delta.count();
      b.advance();
    } else {
      if (a.value() != b.value()) {
        writer.str(a.key());
        if (is_map(a.value()) && is_map(b.value())) {
          writer.array(2);
          writer.integer(kWithin);
          diff_into(out, a.value(), b.value(), depth + 1);
        } else {
          writer.array(3);
          writer.integer(kReplaced);
          writer.raw(a.value());
          writer.raw(b.value());
        }
        delta.count();
      }
      a.advance();
      b.advance();
    }
  }
  delta.close();
}

struct Change {
  std::string_view from, to;  // an empty view: the field is absent on that side
  std::string_view within;    // the delta of two maps; then both others are empty
};

Change read_change(std::string_view encoded) {
  Reader reader(encoded);
  const std::size_t size = reader.array();
  const std::int64_t kind = reader.integer();
  Change change;
  if (kind == kAdded && size == 2) {
    change.to = reader.skip();
  } else if (kind == kRemoved && size == 2) {
    change.from = reader.skip();
  } else if (kind == kReplaced && size == 3) {
    change.from = reader.skip();
    change.to = reader.skip();
  } else if (kind == kWithin && size == 2) {
    change.within = reader.skip();
  } else {
    misfit("an entry is of no known kind");
  }
  return change;
}

void patch_into(std::string& out, std::string_view document, std::string_view delta, bool forward, int depth) {
  check_depth(depth);
  OpenMap result(out);
  Writer writer(out);
  Fields fields(document);
  Fields changes(delta);
  std::string_view last;
  while (!fields.done() || !changes.done()) {
    const int which = order(fields, changes);
    if (which < 0) {
      result.raw(fields.both());
      fields.advance();
      continue;
    }
    if (last.data() != nullptr && changes.key() <= last) misfit("its keys are out of order");
    last = changes.key();
    Change change = read_change(changes.value());
    if (!forward) std::swap(change.from, change.to);
    if (which > 0) {
      if (!change.from.empty() || change.to.empty()) misfit("a field it changes is absent");
      writer.str(changes.key());
      writer.raw(change.to);
      result.count();
      changes.advance();
      continue;
    }
    if (!change.within.empty()) {
      if (!is_map(fields.value())) misfit("a field it changes within is no map");
      writer.str(fields.key());
      patch_into(out, fields.value(), change.within, forward, depth + 1);
      result.count();
    } else {
      if (change.from != fields.value()) misfit("a field it changes has another value");
      if (!change.to.empty()) {
        writer.str(fields.key());
        writer.raw(change.to);
        result.count();
      }
    }
    fields.advance();
    changes.advance();
  }
  result.close();
}

std::string patch(std::string_view document, std::string_view delta, bool forward) {
  std::string out;
  out.reserve(document.size() + delta.size());
  patch_into(out, document, delta, forward, 0);
  return out;
}

using Visit = void (*)(void* context, const Leaf& leaf);

void visit_leaves(std::string_view delta, std::vector<std::string_view>& path, Visit visit, void* context) {
  check_depth(static_cast<int>(path.size()));
  for (Fields changes(delta); !changes.done(); changes.advance()) {
    path.push_back(changes.key());
    const Change change = read_change(changes.value());
    if (!change.within.empty()) {
      visit_leaves(change.within, path, visit, context);
    } else {
      visit(context, Leaf{path.data(), path.size(), change.from, change.to});
    }
    path.pop_back();
  }
}

}  // namespace

std::string diff(std::string_view before, std::string_view after) {
  std::string out;
  diff_into(out, before, after, 0);
  return out;
}

std::string apply(std::string_view before, std::string_view delta) { return patch(before, delta, true); }
std::string undo(std::string_view after, std::string_view delta) { return patch(after, delta, false); }
bool is_empty(std::string_view delta) noexcept { return delta == "\x80"; }

std::string merge_fields(std::string_view document, std::string_view patch) {
  std::string out;
  out.reserve(document.size() + patch.size());
  OpenMap result(out);
  Fields own(document);
  Fields theirs(patch);
  while (!own.done() || !theirs.done()) {
    const int which = order(own, theirs);
    result.raw(which < 0 ? own.both() : theirs.both());
    if (which <= 0) own.advance();
    if (which >= 0) theirs.advance();
  }
  result.close();
  return out;
}

void for_each_leaf(std::string_view delta, void (*visit)(void* context, const Leaf& leaf), void* context) {
  std::vector<std::string_view> path;
  visit_leaves(delta, path, visit, context);
}

}  // namespace syncline::delta
