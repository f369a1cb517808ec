"""Symbols <-> bytes: rANS, many lanes at once.  FORMAT.md 5.

    message = rans.encode(start, freq, check)       # a lane is one coder state and its bytes
    decoder = lanes.GroupDecoder(messages, group)   # a group of images shares a lane
    codes = decoder.decode(table, rows)             # once for each level
    state, used_up = decoder.finish()               # must be the check, and all bytes

It knows no models. `native` does the same with the native kernels; `signed` numbers signed symbols.
"""
