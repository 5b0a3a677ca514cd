// To be written.
#pragma once
#include "tiles.h"
namespace LAGUNA_VARIANT {
static int attention(const LagunaAttention *) { return NO_SUCH_INDEX; }
}
