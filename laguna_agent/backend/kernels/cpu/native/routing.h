// To be written.
#pragma once
#include "tiles.h"
namespace LAGUNA_VARIANT {
static int routing(const LagunaRouting *) { return NO_SUCH_INDEX; }
}
