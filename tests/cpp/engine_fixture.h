// What the engine's tests share: an engine on a private database, mutators as C++ functions, requests in one line.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "engine/engine.h"
#include "store/sqlite_store.h"

namespace syncline::testing {

class ManualClock : public Clock {
 public:
  std::int64_t now() override { return time.load(); }
  std::atomic<std::int64_t> time{1'700'000'000'000'000};
};

class SeededEntropy : public Entropy {
 public:
  std::uint64_t next() override { return random_.next(); }

 private:
  Random random_{1};
};

// Mutators by name; `args` is JSON for readability.
class Host : public MutatorHost {
 public:
  using Fn = std::function<void(Tx&, std::string_view args)>;
  Outcome run(const Mutation& mutation, Tx& tx) override {
    ++runs;
    const auto found = mutators.find(mutation.name);
    if (found == mutators.end()) return {Outcome::Kind::refused, {"unknown_mutation", "no mutator " + mutation.name, {}}};
    try {
      found->second(tx, mutation.args);
    } catch (const Outcome& outcome) {
      return outcome;
    }
    return {};
  }
  std::map<std::string, Fn> mutators;
  int runs = 0;
};

inline std::string pack(std::string_view json) { return json::to_msgpack(json); }
inline std::string unpack(std::string_view packed) {
  std::string out;
  json::from_msgpack(packed, out);
  return out;
}
inline std::string field_str(std::string_view args, std::string_view name) {
  return std::string(mp::Reader(mp::field(args, name)).str());
}

// set {id, v}; add {id}: counts; del {id}; boom: writes, then fails; retry; abort; peek.
inline Host standard_host() {
  Host host;
  host.mutators["set"] = [](Tx& tx, std::string_view args) {
    tx.set("k", field_str(args, "id"), std::string(args));
  };
  host.mutators["add"] = [](Tx& tx, std::string_view args) {
    const std::string id = field_str(args, "id");
    std::int64_t n = 0;
    if (const auto old = tx.get("k", id)) n = mp::Reader(mp::field(*old, "n")).integer();
    tx.set("k", id, pack("{\"n\":" + std::to_string(n + 1) + "}"));
  };
  host.mutators["del"] = [](Tx& tx, std::string_view args) { tx.remove("k", field_str(args, "id")); };
  host.mutators["boom"] = [](Tx& tx, std::string_view args) {
    tx.set("k", field_str(args, "id"), std::string(args));
    throw Error(Code::conflict, "boom");
  };
  host.mutators["retry"] = [](Tx& tx, std::string_view args) {
    tx.set("k", field_str(args, "id"), std::string(args));
    throw Outcome{Outcome::Kind::retry, {}};
  };
  host.mutators["abort"] = [](Tx&, std::string_view) { throw Outcome{Outcome::Kind::abort, {}}; };
  host.mutators["nothing"] = [](Tx&, std::string_view) {};
  return host;
}

inline Mutation mutation(std::string client, std::int64_t seq, std::string name, std::string_view args, std::string scope = "s") {
  Mutation out;
  out.client_id = std::move(client);
  out.client_seq = seq;
  out.name = std::move(name);
  out.args = pack(args);
  out.scope = std::move(scope);
  return out;
}

struct Seeing {  // a pulled change, owned
  Cursor cursor;
  std::string id;
  Op op;
  std::string data;
};
struct Pulled {
  std::vector<Seeing> changes;
  PageEnd end;
};

class Bench {
 public:
  explicit Bench(std::string path = ":memory:", EngineOptions options = {}) : path_(std::move(path)), options_(std::move(options)) {
    clock = std::make_shared<ManualClock>();
    options_.clock = clock;
    open();
  }
  void open() {
    engine.reset();
    engine = std::make_unique<Engine>(open_sqlite(path_, options_.store), options_);
  }
  PushResult push(std::vector<Mutation> mutations, PushOptions options = {}, std::map<std::string, std::int64_t> settled = {},
                  std::optional<std::string> epoch = {}) {
    PushRequest request{std::move(mutations), std::move(epoch), std::move(settled)};
    return engine->push(request, host, options).value();
  }
  MutationResult one(Mutation mutation, PushOptions options = {}) { return push({std::move(mutation)}, std::move(options)).results.at(0); }
  Pulled pull(PullRequest request) {
    Pulled out;
    out.end = engine->pull(request, [&](const ChangeView& change) {
      out.changes.push_back({change.cursor, std::string(change.id), change.op, change.data.empty() ? "" : unpack(change.data)});
    });
    return out;
  }
  Pulled pull_from(Cursor cursor, std::string scope = "s") {
    PullRequest request;
    request.scope = std::move(scope);
    request.cursor = cursor;
    request.epoch = engine->epoch();
    return pull(request);
  }
  std::string get(std::string_view id, std::string scope = "s") {
    const auto body = engine->read(scope)->get("k", id);
    return body ? unpack(*body) : "absent";
  }

  std::shared_ptr<ManualClock> clock;
  Host host = standard_host();
  std::unique_ptr<Engine> engine;

 private:
  std::string path_;
  EngineOptions options_;
};

inline std::string error_code(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return std::string(code_name(error.code()));
  }
  return "no error";
}

}  // namespace syncline::testing
