/* What the kernels use of <stdlib.h> is in ../kernels.c. */
