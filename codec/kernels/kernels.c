/* All kernels in one translation unit, compiled once for each instruction set: -DISA=avx2 makes `pack` pack_avx2. */
#define JOIN_(name, isa) name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)
#define KERNEL(name) JOIN(name, ISA)

#include "simd.h"
#include "layers.h"
#include "rans.h"
#include "ladder.h"
#include "backward.h"
#include "pixels.h"
