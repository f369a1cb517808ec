/* Raised when a function's arguments or a structure change: codec/kernels/__init__.py refuses a library of another version. */
#define AEZ_KERNELS_VERSION 2
