// The optimistic half of a scope: what the pending mutations made of the confirmed documents.
//
// What     A `Layer` is plain data: the documents that the replay touched, as it left them. An `Overlay` is a layer that mutators write
//          through: the running mutation has a level of its own, which is merged down on success and dropped on failure.
// Copies   A view shares the layer; while one does, the next write goes to a copy.
// Owner    the replica, one overlay for each scope. Threads  one at a time, under the replica's lock; a shared layer never changes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/workspace.h"
#include "store/store.h"

namespace syncline::replica {

// entity, NUL, id: names hold no control characters, so keys sort by entity and id.
std::string key_of(std::string_view entity, std::string_view id);
struct KeyParts {
  std::string_view entity, id;
};
KeyParts split_key(std::string_view key);

struct LayerDocument {
  std::string body;
  std::int64_t version = 0;
  bool live = false;
};

struct Layer {
  std::map<std::string, LayerDocument, std::less<>> documents;
  std::atomic<int> readers{0};  // views that share it
};

// A layer held by a view; lets it go from whatever thread the view ends on.
class SharedLayer {
 public:
  SharedLayer() = default;
  explicit SharedLayer(std::shared_ptr<Layer> layer) : layer_(std::move(layer)) { layer_->readers.fetch_add(1, std::memory_order_relaxed); }
  ~SharedLayer() {
    if (layer_) layer_->readers.fetch_sub(1, std::memory_order_release);
  }
  SharedLayer(const SharedLayer&) = delete;
  SharedLayer& operator=(const SharedLayer&) = delete;
  [[nodiscard]] const Layer* get() const noexcept { return layer_.get(); }

 private:
  std::shared_ptr<Layer> layer_;
};

// What a level says of a range of ids: a body, or nullptr where the document is gone.
using Said = std::map<std::string_view, const std::string*>;
void scan_merged(ReadTx& base, std::string_view scope, std::string_view entity, std::string_view prefix, const Said& said,
                 const Workspace::Visit& visit);
void say(const Layer& layer, std::string_view entity, std::string_view prefix, Said& said);
std::optional<std::string> confirmed_body(ReadTx& base, std::string_view scope, std::string_view entity, std::string_view id);

// A document that a mutation changed; an empty body is none.
struct Touched {
  std::string key, before, after;
};

class Overlay final : public Workspace {
 public:
  // `base` is asked for the confirmed documents' snapshot only when one is read.
  using Base = std::function<ReadTx&()>;
  Overlay(std::string scope, std::size_t max_document) : scope_(std::move(scope)), max_document_(max_document) {}

  void over(Base base) { base_ = std::move(base); }
  void limit(std::size_t max_document) noexcept { max_document_ = max_document; }

  std::optional<Seen> get(std::string_view scope, std::string_view entity, std::string_view id) override;
  std::int64_t version(std::string_view scope, std::string_view entity, std::string_view id) override;
  void set(std::string_view scope, std::string_view entity, std::string_view id, std::string body) override;
  bool remove(std::string_view scope, std::string_view entity, std::string_view id) override;
  void scan(std::string_view scope, std::string_view entity, std::string_view prefix, const Visit& visit) override;

  void merge(std::vector<Touched>* told);  // `told`: null where nobody asks
  void drop() noexcept;

  [[nodiscard]] const Layer& layer() const noexcept { return *layer_; }
  [[nodiscard]] std::shared_ptr<Layer> share() const noexcept { return layer_; }

 private:
  static constexpr std::size_t kMostRead = 4096;  // confirmed documents kept in memory between mutations

  struct Draft {
    std::string body;
    bool live = false;
  };
  const LayerDocument& below(const std::string& key);
  Layer& writable();

  std::string scope_;
  std::size_t max_document_;
  Base base_;
  std::shared_ptr<Layer> layer_ = std::make_shared<Layer>();
  std::map<std::string, Draft, std::less<>> upper_;
  std::unordered_map<std::string, LayerDocument> read_;
  std::string key_;
};

}  // namespace syncline::replica
