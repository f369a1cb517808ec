/* What this processor can do, and what this library is.  Compiled once, for any processor of its family. */
#include "version.h"

#ifndef AEZ_SOURCE
#define AEZ_SOURCE "unknown"
#endif

int aez_kernels_version(void) { return AEZ_KERNELS_VERSION; }

/* `source_hash` in build.py, of the files that this library was compiled from. */
const char *aez_kernels_source(void) { return AEZ_SOURCE; }

/* The instruction sets that this processor has and that there are kernels for, best first. */
const char *aez_instruction_sets(void) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        return __builtin_cpu_supports("avx512vnni") ? "vnni avx512 avx2 sse2" : "avx512 avx2 sse2";
    if (__builtin_cpu_supports("avx2")) return "avx2 sse2";
    return "sse2";
#elif defined(__aarch64__)
    return "neon";
#else
    return "plain";
#endif
}
