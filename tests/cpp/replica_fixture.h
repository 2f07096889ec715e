// What the replica's tests share: a server in the process that answers requests as bytes, and replicas that talk to it when told to.
//
// Owner    the test that declares them. Threads  one.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "engine/wire.h"
#include "engine_fixture.h"
#include "folder.h"
#include "replica/replica.h"

namespace syncline::testing_replica {

using replica::Answered;
using replica::Event;
using replica::Outgoing;
using replica::Place;
using replica::Replica;
using replica::ReplicaOptions;
using Next = Answered::Next;
using testing::Host;
using testing::ManualClock;
using testing::pack;
using testing::unpack;

// What both sides know: set {id, v}; add {id}; del {id}; boom {id}: refused after it wrote; mint: a document with an id of tx.uuid();
// server-only behaviour is switched by the test.
inline Host replica_host() {
  Host host = testing::standard_host();
  host.mutators["mint"] = [](Tx& tx, std::string_view args) { tx.set("k", tx.uuid(), std::string(args)); };
  host.mutators["cas"] = [](Tx& tx, std::string_view args) {
    const std::string id = testing::field_str(args, "id");
    tx.expect("k", id, mp::Reader(mp::field(args, "version")).integer());
    tx.set("k", id, std::string(args));
  };
  return host;
}

struct Reply {
  int status = 0;
  std::string body;
};

class Server {
 public:
  explicit Server(const std::filesystem::path& folder, Limits limits = {}) : folder_(folder) {
    std::filesystem::create_directories(folder);
    options_.limits = limits;
    options_.store.durability = Durability::normal;
    options_.clock = clock = std::make_shared<ManualClock>();
    host = replica_host();
    reopen();
  }
  void reopen() {
    engine.reset();
    engine = std::make_unique<Engine>(open_sqlite(path(), options_.store), options_);
  }
  void back_up(const std::string& name) { engine->backup((folder_ / name).string(), {}); }
  void restore(const std::string& name) {
    engine.reset();
    for (const char* tail : {"", "-wal", "-shm"}) std::filesystem::remove(path() + tail);
    std::filesystem::copy_file(folder_ / name, path());
    reopen();
  }
  void purge() {
    clock->time += 7'200'000'000;
    engine->purge(kMaxCursor, 0);
  }
  void write(const std::string& scope, const std::string& id, const std::string& json) {
    const auto session = engine->write({scope}, "backend");
    json.empty() ? static_cast<void>(session->txs()[0]->remove("k", id)) : session->txs()[0]->set("k", id, pack(json));
    session->commit();
  }
  std::string get(const std::string& id, const std::string& scope = "s") {
    const auto body = engine->read(scope)->get("k", id);
    return body ? unpack(*body) : "absent";
  }
  std::map<std::string, std::string> all(const std::string& scope = "s") {
    std::map<std::string, std::string> out;
    for (const Row& row : engine->read(scope)->scan("k")) out[row.id] = unpack(row.body);
    return out;
  }

  Reply handle(const std::string& path_of, const std::string& body, const std::string& user) {
    try {
      if (!down.empty()) throw Error(Code::unavailable, down);
      if (path_of == "/_sync/push") {
        const PushRequest request = wire::parse_push(body, Format::msgpack, engine->limits());
        PushOptions options{.user = user};
        for (const std::string& scope : request.scopes()) {
          if (denied.contains({user, scope})) options.forbidden.insert(scope);
        }
        return {200, wire::encode(engine->push(request, host, options).value(), Format::msgpack)};
      }
      PullRequest request = wire::parse_pull(body, Format::msgpack, engine->limits());
      request.user = user;
      if (page_limit > 0) request.limit = page_limit;
      if (denied.contains({user, request.scope})) throw Error(Code::forbidden, "not yours");
      Bytes out;
      engine->pull_encoded(request, Format::msgpack, out);
      return {200, std::string(out.view())};
    } catch (const Error& error) {
      return {http_status(error.code()), wire::encode_error(Refusal::from(error), Format::msgpack)};
    }
  }
  [[nodiscard]] std::string path() const { return (folder_ / "server.db").string(); }

  std::shared_ptr<ManualClock> clock;
  Host host;
  std::unique_ptr<Engine> engine;
  std::set<std::pair<std::string, std::string>> denied;  // (user, scope)
  std::string down;            // not empty: every request is `unavailable`
  std::int64_t page_limit = 0; // changes a page

 private:
  std::filesystem::path folder_;
  EngineOptions options_;
};

// Random bits that are the same in every run, and others for each name.
class NamedEntropy : public Entropy {
 public:
  explicit NamedEntropy(std::string_view name) : random_(mp::hash64(name)) {}
  std::uint64_t next() override { return random_.next(); }

 private:
  Random random_;
};

// A replica on a file, with its own mutators.
class Client {
 public:
  Client(const std::filesystem::path& folder, std::string name, ReplicaOptions options = {}) : folder_(folder), name_(std::move(name)) {
    std::filesystem::create_directories(folder);
    options_ = std::move(options);
    if (options_.user.empty()) options_.user = name_;
    options_.clock = clock = std::make_shared<ManualClock>();
    if (!options_.entropy) options_.entropy = std::make_shared<NamedEntropy>(name_);
    host = replica_host();
    open();
  }
  void open() {
    replica.reset();
    replica = std::make_unique<Replica>(open_sqlite(path(), {.durability = Durability::normal}), host, options_);
  }
  void crash() {
    replica->abandon();
    open();
  }
  // The file as it is now, to be set back to later. Closes and opens.
  void keep(const std::string& name) {
    replica.reset();
    std::filesystem::copy_file(path(), folder_ / name, std::filesystem::copy_options::overwrite_existing);
    open();
  }
  void set_back(const std::string& name) {
    replica.reset();
    for (const char* tail : {"", "-wal", "-shm"}) std::filesystem::remove(path() + tail);
    std::filesystem::copy_file(folder_ / name, path());
    open();
  }
  Place mutate(const std::string& name, const std::string& json, const std::string& scope = "s") {
    return replica->mutate(scope, name, pack(json));
  }
  std::string get(const std::string& id, const std::string& scope = "s", bool confirmed = false) {
    const auto body = replica->view(scope, confirmed)->get("k", id);
    return body ? unpack(*body) : "absent";
  }
  std::string confirmed(const std::string& id, const std::string& scope = "s") { return get(id, scope, true); }
  std::map<std::string, std::string> all(const std::string& scope = "s", bool confirmed = false) {
    std::map<std::string, std::string> out;
    for (const Row& row : replica->view(scope, confirmed)->scan("k", {}, -1)) out[row.id] = unpack(row.body);
    return out;
  }

  Answered push(Server& server) {
    const auto request = replica->next_push();
    return request ? deliver(server, *request) : Answered{.next = Next::ignored};
  }
  // One request.
  Answered pull_page(Server& server, const std::string& scope = "s") {
    const auto request = replica->next_pull(scope);
    return request ? deliver(server, *request) : Answered{.next = Next::ignored};
  }
  // Pages until there is no more to learn from asking again.
  Answered pull(Server& server, const std::string& scope = "s") {
    Answered last;
    for (int n = 0; n < 1000; ++n) {
      last = pull_page(server, scope);
      if (last.next != Next::done || (state(scope).staged_pages == 0 && last.code.empty())) break;
    }
    return last;
  }
  Answered deliver(Server& server, const Outgoing& request) {
    const Reply reply = server.handle(request.path, request.body, user.empty() ? options_.user : user);
    return replica->answer(request.request, reply.status, reply.body);
  }
  // Until nothing is to be sent and the queue is as empty as it gets.
  void sync(Server& server, int rounds = 30) {
    for (int n = 0; n < rounds; ++n) {
      for (const auto& scope : replica->scopes()) pull(server, scope.name);
      push(server);
      if (replica->status().pending == 0 && replica->status().identified) break;
    }
    for (const auto& scope : replica->scopes()) pull(server, scope.name);
    replica->flush();
  }
  replica::ScopeState state(const std::string& scope = "s") {
    for (const auto& one : replica->scopes()) {
      if (one.name == scope) return one;
    }
    return {};
  }
  // "kind scope/entity/id before->after" of each document's event, "kind code" of the others.
  std::vector<std::string> events() {
    std::vector<std::string> out;
    for (const Event& event : replica->take_events()) {
      const auto shown = [](const std::string& body) { return body.empty() ? std::string("-") : unpack(body); };
      switch (event.kind) {
        case Event::Kind::changed: out.push_back(event.id + " " + shown(event.before) + " " + shown(event.after)); break;
        case Event::Kind::refused: out.push_back("refused " + std::to_string(event.place) + " " + event.code); break;
        case Event::Kind::opened: out.push_back("opened " + event.scope); break;
        case Event::Kind::closed: out.push_back("closed " + event.scope); break;
        case Event::Kind::restored: out.push_back("restored " + event.scope); break;
        case Event::Kind::renamed: out.push_back("renamed"); break;
      }
    }
    return out;
  }
  [[nodiscard]] std::string path() const { return (folder_ / (name_ + ".db")).string(); }

  std::shared_ptr<ManualClock> clock;
  Host host;
  std::string user;  // who asks, where it is not the replica's own
  std::unique_ptr<Replica> replica;

 private:
  std::filesystem::path folder_;
  std::string name_;
  ReplicaOptions options_;
};

}  // namespace syncline::testing_replica
