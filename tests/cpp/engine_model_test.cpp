// Random schedules against a model that a page can hold: mirrors that pull by cursor, clients whose answers get lost, restarts and
// compaction in between. A failing seed is in the message and replays exactly.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "engine_fixture.h"
#include "folder.h"

namespace syncline::testing {
namespace {

constexpr std::int64_t kHour = 3'600'000'000;

struct Mirror {  // a client's copy of one scope, kept by pulls alone
  std::string scope;
  std::map<std::string, std::string> documents;
  Cursor cursor = 0;
  std::string epoch;
};

struct Client {
  std::string id;
  std::int64_t next = 1;
  std::int64_t answered = 0;                  // all up to here were answered
  std::vector<Mutation> outbox;               // from answered + 1
};

class World {
 public:
  explicit World(std::uint64_t seed)
      : random_(seed), path_(folder_ / "model.db"), bench_(path_, options()) {
    for (int n = 0; n < 3; ++n) clients_.push_back({.id = "c" + std::to_string(n), .outbox = {}});
    for (const char* scope : {"a", "b"}) {
      for (int n = 0; n < 2; ++n) mirrors_.push_back({.scope = scope, .documents = {}, .epoch = {}});
    }
  }

  void run(int steps) {
    for (int n = 0; n < steps; ++n) {
      bench_.clock->time += static_cast<std::int64_t>(random_.next() % (kHour / 2));
      const std::uint64_t what = random_.next() % 100;
      if (what < 35) {
        make(pick(clients_));
      } else if (what < 65) {
        push(pick(clients_));
      } else if (what < 90) {
        pull(pick(mirrors_), random_.next() % 2 == 0);
      } else if (what < 94) {
        bench_.engine->close();
        bench_.open();
      } else {
        bench_.engine->purge(kMaxCursor, kHour, 1 + static_cast<std::int64_t>(random_.next() % 4));
      }
    }
    for (Client& client : clients_) {
      while (!client.outbox.empty()) push(client, true);
    }
    for (Mirror& mirror : mirrors_) {
      pull(mirror, false);
      if (mirror.cursor == 0) pull(mirror, false);  // it was below the floor, and begins again
    }
    for (const Mirror& mirror : mirrors_) EXPECT_EQ(mirror.documents, truth(mirror.scope));
    for (const auto& [key, count] : applied_) EXPECT_EQ(bench_.get("n-" + key.second, key.first), "{\"n\":" + std::to_string(count) + "}");
  }

 private:
  static EngineOptions options() {
    EngineOptions options;
    options.store.durability = Durability::normal;
    return options;
  }
  template <class T>
  T& pick(std::vector<T>& from) {
    return from[random_.next() % from.size()];
  }

  void make(Client& client) {
    const std::string scope = random_.next() % 2 == 0 ? "a" : "b";
    const std::string id = std::to_string(random_.next() % 4);
    const std::uint64_t what = random_.next() % 10;
    Mutation made;
    if (what < 5) {
      made = mutation(client.id, client.next++, "add", "{\"id\":\"n-" + id + "\"}", scope);
      ++applied_[{scope, id}];
    } else if (what < 7) {
      made = mutation(client.id, client.next++, "set", "{\"id\":\"" + id + "\",\"v\":" + std::to_string(random_.next() % 100) + "}", scope);
    } else if (what < 9) {
      made = mutation(client.id, client.next++, "del", "{\"id\":\"" + id + "\"}", scope);
    } else {
      made = mutation(client.id, client.next++, "boom", "{\"id\":\"" + id + "\"}", scope);
    }
    client.outbox.push_back(std::move(made));
  }

  void push(Client& client, bool answered = false) {
    if (client.outbox.empty()) return;
    const std::size_t count = 1 + random_.next() % client.outbox.size();
    const std::vector<Mutation> batch(client.outbox.begin(), client.outbox.begin() + static_cast<std::ptrdiff_t>(count));
    const PushResult result = bench_.push(batch, {}, {{client.id, client.answered}});
    for (const MutationResult& one : result.results) {
      EXPECT_TRUE(one.ok() || one.error->code == "conflict") << one.error->code << ": " << one.error->message;
    }
    if (!answered && random_.next() % 3 == 0) return;  // the answer is lost: all of it will be sent again
    client.outbox.erase(client.outbox.begin(), client.outbox.begin() + static_cast<std::ptrdiff_t>(count));
    client.answered += static_cast<std::int64_t>(count);
  }

  void pull(Mirror& mirror, bool disturbed) {
    PullRequest request;
    request.scope = mirror.scope;
    request.cursor = mirror.cursor;
    if (mirror.cursor > 0) request.epoch = mirror.epoch;
    request.limit = 1 + static_cast<std::int64_t>(random_.next() % 4);
    std::map<std::string, std::string> staged;
    Cursor last = request.cursor;
    for (;;) {
      Pulled page;
      try {
        page = bench_.pull(request);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), Code::cursor_too_old) << error.what();
        ASSERT_GT(request.cursor, 0);
        mirror.cursor = 0;
        mirror.documents.clear();
        return;
      }
      for (const Seeing& change : page.changes) {
        EXPECT_GT(change.cursor, last) << "cursor order";
        last = change.cursor;
        staged[change.id] = change.data;
      }
      if (!page.end.has_more) {
        mirror.cursor = page.end.cursor;
        mirror.epoch = page.end.epoch;
        break;
      }
      request.page = page.end.page;
      if (disturbed) push(pick(clients_));
    }
    for (const auto& [id, data] : staged) {
      if (data.empty()) {
        mirror.documents.erase(id);
      } else {
        mirror.documents[id] = data;
      }
    }
    EXPECT_EQ(mirror.documents, truth(mirror.scope)) << "a pull ends in the state the server is in";
  }

  std::map<std::string, std::string> truth(const std::string& scope) {
    std::map<std::string, std::string> documents;
    for (const Row& row : bench_.engine->read(scope)->scan("k")) documents[row.id] = unpack(row.body);
    return documents;
  }

  Random random_;
  const Folder folder_;
  const std::string path_;
  Bench bench_;
  std::vector<Client> clients_;
  std::vector<Mirror> mirrors_;
  std::map<std::pair<std::string, std::string>, int> applied_;  // (scope, id) -> how often "add" must have counted
};

TEST(EngineModel, RandomSchedulesConvergeWithEveryMutationAppliedExactlyOnce) {
  for (std::uint64_t seed = 1; seed <= 60 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World(seed).run(150);
  }
}

}  // namespace
}  // namespace syncline::testing
