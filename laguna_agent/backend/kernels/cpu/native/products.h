// To be written.
#pragma once
#include "tiles.h"
namespace LAGUNA_VARIANT {
static int product(const LagunaProduct *) { return NO_SUCH_INDEX; }
}
