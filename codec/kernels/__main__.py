"""`python -m codec.kernels`: see `codec.kernels.build`."""

from codec.kernels.build import main

main()
