#include "ops/warpgroups.h"

#include <cstdlib>
#include <cstring>

#include "core/device.h"

namespace lgd {

bool use_warpgroups(const Context& ctx) {
  static const char* text = std::getenv("LGDISTILL_WGMMA");
  static const bool wanted = text && std::strcmp(text, "1") == 0;
  return wanted && cuda::has_warpgroups(ctx.index);
}

}  // namespace lgd
