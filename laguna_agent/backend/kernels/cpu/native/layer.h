// To be written.
#pragma once
#include "tiles.h"
namespace LAGUNA_VARIANT {
static int forward(const LagunaForward *) { return NO_SUCH_INDEX; }
}
