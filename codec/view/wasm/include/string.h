/* What the kernels use of <string.h>: instructions of WebAssembly. */
#define memcpy __builtin_memcpy
#define memmove __builtin_memmove
#define memset __builtin_memset
