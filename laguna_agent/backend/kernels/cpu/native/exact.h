// To be written.
#pragma once
#include "tiles.h"
namespace LAGUNA_VARIANT {
static int exact_product(const LagunaProduct *) { return NO_SUCH_INDEX; }
static int some_rows(const LagunaRows *) { return NO_SUCH_INDEX; }
}
