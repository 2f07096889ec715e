// Python's usual values as canonical msgpack, in one pass over raw memory; everything else is left to the encoder that knows words.
//
// What     dict, list, tuple, str, bytes, int, float, bool and None of exactly these types. Anything else, and everything that a border
//          refuses, is answered with false and nothing is said: `encode` then walks the value again and names what is wrong and where.
//          None of the usual types runs Python code while it is read, so borrowed references hold.
// Shapes   The keys of a dict are the same objects each time where they are literals of a program. A shape remembers, for a row of such keys,
//          their sorted order and their encoded bytes: 380 instructions for a dict of six fields in place of 3,300.
// Threads  any, with the GIL, which guards the shapes and the buffer.
#pragma once

#include <string>

#include "base/msgpack.h"
#include "bindings/python.h"

namespace syncline::python {

// True: `out` is the value's encoding.
bool encode_quickly(PyObject* value, const mp::Border& border, std::string& out);

}  // namespace syncline::python
