// A trial of programmatic dependent launches (core/timeline.h).
#pragma once
#include "core/device.h"

namespace lgd {

// Takes the same steps, forward and backward through small layers, one of them beside the others, from graphs with
// programmatic launches and with serialized ones, with arguments that change from step to step. Returns the time of the
// first in that of the second. DEVICE_UNAVAILABLE where the device has none; DEVICE_ERROR if the results are not the
// same bits, or if the driver cannot change the arguments of such a graph. On the device's thread, outside steps;
// waits.
double programmatic_launch_time(Device& ctx);

}  // namespace lgd
