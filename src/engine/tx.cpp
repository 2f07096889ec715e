#include "engine/tx.h"

#include <utility>

#include "base/delta.h"
#include "base/msgpack.h"

namespace syncline {

Tx::Tx(Workspace& workspace, std::string_view scope, std::string_view client_id, std::string_view user, std::int64_t now, Random& random)
    : workspace_(&workspace), scope_(scope), client_id_(client_id), user_(user), now_(now), random_(random) {}

Workspace& Tx::live(std::string_view entity) {
  if (workspace_ == nullptr) {
    throw Error(Code::closed, "this tx is finished: a mutator may use its tx only until it returns; do not keep it");
  }
  check_name(entity, "entity", Code::invalid_mutation);
  return *workspace_;
}

Workspace& Tx::live(std::string_view entity, std::string_view id) {
  Workspace& workspace = live(entity);
  check_name(id, "id", Code::invalid_mutation);
  return workspace;
}

std::optional<std::string_view> Tx::get(std::string_view entity, std::string_view id) {
  const std::optional<Seen> seen = live(entity, id).get(scope_, entity, id);
  if (!seen) return std::nullopt;
  return seen->body;
}

bool Tx::exists(std::string_view entity, std::string_view id) { return version(entity, id) != 0; }

void Tx::set(std::string_view entity, std::string_view id, std::string body) {
  Workspace& workspace = live(entity, id);
  if (mp::Reader(body).peek() != mp::Kind::map) {
    throw Error(Code::invalid_mutation,
                "document " + std::string(entity) + "/" + std::string(id) + " must be a map (a dict of fields), it is another value");
  }
  workspace.set(scope_, entity, id, std::move(body));
}

void Tx::update(std::string_view entity, std::string_view id, std::string_view patch) {
  Workspace& workspace = live(entity, id);
  if (mp::Reader(patch).peek() != mp::Kind::map) {
    throw Error(Code::invalid_mutation, "update of " + std::string(entity) + "/" + std::string(id) + " must be a map of fields");
  }
  const std::optional<Seen> seen = workspace.get(scope_, entity, id);
  if (!seen) {
    throw Error(Code::not_found, "no document " + std::string(entity) + "/" + std::string(id) + " in " + std::string(scope_) + " to update");
  }
  workspace.set(scope_, entity, id, delta::merge_fields(seen->body, patch));
}

bool Tx::remove(std::string_view entity, std::string_view id) { return live(entity, id).remove(scope_, entity, id); }

std::int64_t Tx::version(std::string_view entity, std::string_view id) { return live(entity, id).version(scope_, entity, id); }

void Tx::expect(std::string_view entity, std::string_view id, std::int64_t version) {
  const std::int64_t is = this->version(entity, id);
  if (is != version) {
    const auto say = [](std::int64_t v) { return v == 0 ? std::string("absent") : "at version " + std::to_string(v); };
    throw Error(Code::conflict, std::string(entity) + "/" + std::string(id) + " is " + say(is) + ", expected " + say(version),
                {{"version", is}});
  }
}

std::vector<Row> Tx::scan(std::string_view entity, std::string_view prefix, std::int64_t limit) {
  Workspace& workspace = live(entity);
  return take_rows([&](const VisitRow& visit) { workspace.scan(scope_, entity, prefix, visit); }, limit);
}

std::vector<Row> Tx::find(std::string_view entity, const FindOptions& options) {
  Workspace& workspace = live(entity);
  return find_rows([&](const VisitRow& visit) { workspace.scan(scope_, entity, {}, visit); }, options);
}

std::int64_t Tx::now() const noexcept { return now_; }

std::string Tx::uuid() { return uuid7(now_, random_.next()); }

double Tx::random() { return random_.uniform(); }

std::uint64_t Tx::random_bits() { return random_.next(); }

}  // namespace syncline
