#pragma once

namespace lgd {

// How many multiprocessors blocks that stay are meant to fill: an H100's. Checks lower it, so that small products make a block walk
// over several tiles.
inline int multiprocessors = 132;

}  // namespace lgd
