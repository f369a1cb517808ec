/* The decoding kernels of codec/kernels for browsers, in one WebAssembly module without a C library.
 *
 * Memory: a stack. `malloc` takes from its top; `free` gives back that address and all above it. So whoever allocates frees in
 * reverse order, as the kernels do: one allocation a call, freed before it returns. JavaScript (web/kernels.js) allocates in
 * the same stack: first what stays (models), then what one call needs.
 */
#include <stddef.h>

#define KERNEL(name) name
#define BACKWARD 0

enum { PAGE = 1 << 16, MOST = 1 << 30 }; /* bytes; below MOST an address is a positive int32 */

extern unsigned char __heap_base; /* the linker's: behind the constants and C's own stack */
static size_t top;

void *malloc(size_t bytes) {
    size_t at = top ? top : ((size_t)&__heap_base + 15) / 16 * 16, have = __builtin_wasm_memory_size(0);
    if (bytes > MOST - at) return NULL;
    size_t end = (at + bytes + 15) / 16 * 16, pages = (end + PAGE - 1) / PAGE;
    if (pages > have && __builtin_wasm_memory_grow(0, pages - have) == (size_t)-1) return NULL;
    top = end;
    return (void *)at;
}

void free(void *at) {
    if (at) top = (size_t)at;
}

static void *calloc(size_t count, size_t size) { /* its callers' products are far below 2**32 */
    void *at = malloc(count * size);
    return at ? __builtin_memset(at, 0, count * size) : at;
}

#include "../../kernels/simd.h"
#include "../../kernels/layers.h"
#include "../../kernels/rans.h"
#include "../../kernels/ladder.h"
#include "../../kernels/pixels.h"
