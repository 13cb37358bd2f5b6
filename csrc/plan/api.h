// The table of functions for native adapters.
#pragma once
#include "../core/api.h"

namespace fnn {

const Api& api();

}  // namespace fnn
