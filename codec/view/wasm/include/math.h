/* The decoding kernels use nothing of <math.h>: their vectors round. */
