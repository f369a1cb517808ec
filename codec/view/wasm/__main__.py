"""`python -m codec.view.wasm`: see `codec.view.wasm.build`."""

from codec.view.wasm.build import main

main()
