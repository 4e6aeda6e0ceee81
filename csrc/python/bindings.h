// Parts of the Python module that have a file of their own.
#pragma once
#include <pybind11/pybind11.h>

namespace revati {
void bind_graph(pybind11::module_& m);
void bind_comm(pybind11::module_& m);
}
