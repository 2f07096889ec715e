#include "replica/overlay.h"

#include <utility>

namespace syncline::replica {

namespace {

void write_key(std::string& out, std::string_view entity, std::string_view id) {
  out.assign(entity);
  out.push_back('\0');
  out.append(id);
}

}  // namespace

std::string key_of(std::string_view entity, std::string_view id) {
  std::string key;
  key.reserve(entity.size() + id.size() + 1);
  write_key(key, entity, id);
  return key;
}

KeyParts split_key(std::string_view key) {
  const std::size_t at = key.find('\0');
  return {key.substr(0, at), key.substr(at + 1)};
}

std::optional<std::string> confirmed_body(ReadTx& base, std::string_view scope, std::string_view entity, std::string_view id) {
  std::optional<std::string> body;
  const DocumentKey key{scope, entity, id};
  base.documents({&key, 1}, [&](std::size_t, const DocumentView* found) {
    if (found != nullptr && !found->deleted) body = found->body;
  });
  return body;
}

void say(const Layer& layer, std::string_view entity, std::string_view prefix, Said& said) {
  const std::string first = key_of(entity, prefix);
  for (auto at = layer.documents.lower_bound(first); at != layer.documents.end() && at->first.starts_with(first); ++at) {
    said[split_key(at->first).id] = at->second.live ? &at->second.body : nullptr;
  }
}

void scan_merged(ReadTx& base, std::string_view scope, std::string_view entity, std::string_view prefix, const Said& said,
                 const Workspace::Visit& visit) {
  auto next = said.begin();
  bool wanted = true;
  base.scan(scope, entity, prefix, {}, [&](const DocumentView& document) {
    for (; wanted && next != said.end() && next->first < document.id; ++next) {
      if (next->second != nullptr) wanted = visit(next->first, *next->second);
    }
    if (!wanted) return false;
    if (next != said.end() && next->first == document.id) {
      if (next->second != nullptr) wanted = visit(next->first, *next->second);
      ++next;
    } else {
      wanted = visit(document.id, document.body);
    }
    return wanted;
  });
  for (; wanted && next != said.end(); ++next) {
    if (next->second != nullptr) wanted = visit(next->first, *next->second);
  }
}

// The document below the running mutation: as the replay left it, or as it is confirmed.
const LayerDocument& Overlay::below(const std::string& key) {
  if (const auto found = layer_->documents.find(key); found != layer_->documents.end()) return found->second;
  if (const auto found = read_.find(key); found != read_.end()) return found->second;
  LayerDocument document;
  const auto [entity, id] = split_key(key);
  const DocumentKey wanted{scope_, entity, id};
  base_().documents({&wanted, 1}, [&](std::size_t, const DocumentView* found) {
    if (found == nullptr || found->deleted) return;
    document.body = found->body;
    document.version = found->version;
    document.live = true;
  });
  return read_.emplace(key, std::move(document)).first->second;
}

std::optional<Seen> Overlay::get(std::string_view, std::string_view entity, std::string_view id) {
  write_key(key_, entity, id);
  if (const auto upper = upper_.find(key_); upper != upper_.end()) {
    if (!upper->second.live) return std::nullopt;
    return Seen{upper->second.body, below(key_).version + 1};
  }
  const LayerDocument& document = below(key_);
  if (!document.live) return std::nullopt;
  return Seen{document.body, document.version};
}

std::int64_t Overlay::version(std::string_view scope, std::string_view entity, std::string_view id) {
  const std::optional<Seen> seen = get(scope, entity, id);
  return seen ? seen->version : 0;
}

void Overlay::set(std::string_view, std::string_view entity, std::string_view id, std::string body) {
  if (body.size() > max_document_) {
    throw Error(Code::too_large,
                "document " + std::string(entity) + "/" + std::string(id) + " is " + std::to_string(body.size()) +
                    " bytes encoded; at most " + std::to_string(max_document_) + " are stored",
                {{"limit", static_cast<std::int64_t>(max_document_)}});
  }
  write_key(key_, entity, id);
  Draft& draft = upper_[key_];
  draft.body = std::move(body);
  draft.live = true;
}

bool Overlay::remove(std::string_view scope, std::string_view entity, std::string_view id) {
  if (version(scope, entity, id) == 0) return false;
  Draft& draft = upper_[key_];
  draft.body.clear();
  draft.live = false;
  return true;
}

void Overlay::scan(std::string_view, std::string_view entity, std::string_view prefix, const Visit& visit) {
  Said said;
  say(*layer_, entity, prefix, said);
  const std::string first = key_of(entity, prefix);
  for (auto at = upper_.lower_bound(first); at != upper_.end() && at->first.starts_with(first); ++at) {
    said[split_key(at->first).id] = at->second.live ? &at->second.body : nullptr;
  }
  scan_merged(base_(), scope_, entity, prefix, said, visit);
}

Layer& Overlay::writable() {
  if (layer_->readers.load(std::memory_order_acquire) > 0) {
    auto copy = std::make_shared<Layer>();
    copy->documents = layer_->documents;
    layer_ = std::move(copy);
  }
  return *layer_;
}

void Overlay::merge(std::vector<Touched>* told) {
  if (upper_.empty()) return drop();
  Layer& layer = writable();
  for (auto& [key, draft] : upper_) {
    const LayerDocument& old = below(key);
    if (!old.live && !draft.live) continue;
    if (old.live && draft.live && old.body == draft.body) continue;
    if (told != nullptr) told->push_back({key, old.live ? old.body : std::string(), draft.body});
    const std::int64_t version = old.version + 1;
    LayerDocument& now = layer.documents[key];
    now.body = std::move(draft.body);
    now.version = version;
    now.live = draft.live;
  }
  drop();
}

void Overlay::drop() noexcept {
  upper_.clear();
  if (read_.size() > kMostRead) read_.clear();
}

}  // namespace syncline::replica
