#include "store/store.h"

namespace syncline {

std::string_view op_name(Op op) noexcept {
  switch (op) {
    case Op::create: return "create";
    case Op::update: return "update";
    case Op::remove: return "delete";
  }
  return "unknown";
}

}  // namespace syncline
